/** Rules of the firewall and what they do, in words. Pure. */

import type { Doubt, Touch } from "../nft-evaluator/hooks.ts";

/** `inet filter input handle 7 "web"` */
export function ruleText({ rule, comment, isLegacy }: Touch): string {
  const named = isLegacy ? `${rule} of iptables-legacy` : rule;
  return comment === undefined ? named : `${named} "${comment}"`;
}

/** As the subject of a sentence: a rule, or the policy of a chain. */
export function subject(touch: Touch): string {
  return `${touch.isPolicy ? "The policy of chain" : "Rule"} ${ruleText(touch)}`;
}

/** How to look at the chain of a rule. */
export function inspect({ rule, isLegacy }: Touch): string | undefined {
  const [family, table, chain] = rule.split(" ");
  if (family === undefined || table === undefined || chain === undefined) return undefined;
  if (isLegacy) {
    return `${family === "ip6" ? "ip6tables" : "iptables"}-legacy -t ${table} -nvL ${chain}`;
  }
  return `nft -a list chain ${family} ${table} ${chain}`;
}

/** The rules that leave a doubt, each with the reason, and what it depends on them. */
export function doubtText(doubts: readonly Doubt[], what: string): string {
  const unique = [...new Map(doubts.map((doubt) => [doubt.rule, doubt])).values()];
  const [first, ...rest] = unique;
  if (first === undefined) return what;
  const more = rest.length === 0 ? "" : ` and ${rest.length} more`;
  const each = `rule ${ruleText(first)}${more}`;
  return `${what} depends on ${each}, which cannot be told from here: ${first.reason}.`;
}

/** Rules that let only so many packets through. */
export function limitText(limited: readonly Touch[]): string {
  const [first] = limited;
  return first === undefined ? "" : ` Rule ${ruleText(first)} sets a limit to how many.`;
}
