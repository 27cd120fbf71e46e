/**
 * What nf_tables would do with a packet: a reading of its rules as the kernel reads them. Pure.
 *
 * Base chains of the hook run in the order of their priorities; `accept` ends one of them, `drop`
 * all. What cannot be known here (connection tracking, maps, extensions of iptables beyond the
 * usual) makes a rule a "maybe", which is told rather than guessed; it counts as not matching.
 */

import {
  NF_ACCEPT,
  NF_DROP,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_GOTO,
  NFT_JUMP,
  NFT_RETURN,
} from "../../ffi/netlink/constants.ts";
import type { Chain } from "../../ffi/netlink/nftables/chain.ts";
import type { FirewallRule } from "../../ffi/netlink/nftables/rule.ts";
import type { Packet } from "./packet.ts";
import { type Effect, Machine } from "./rule-machine.ts";
import type { RuledChain, Ruleset } from "./ruleset.ts";

/** Where TPROXY wants to hand a packet to. */
export interface TproxyTarget {
  /** Undefined: the primary address of the interface it came by. */
  readonly address: Uint8Array | undefined;
  readonly port: number;
}

/** A rule and what it did. */
export interface Touch {
  readonly rule: string;
  readonly comment?: string;
}

/** What has become of a packet when the hook is through. */
export interface Passage {
  readonly verdict: "accept" | "drop";
  readonly mark: number;
  /** Rules that set the mark, in their order. */
  readonly marking: readonly (Touch & { readonly mark: number })[];
  readonly tproxy: (Touch & TproxyTarget) | undefined;
  /** A TPROXY rule that found no transparent listener. */
  readonly missed: (Touch & TproxyTarget) | undefined;
  readonly dropped: Touch | undefined;
  /** Rules with an effect of which it cannot be known whether they match. */
  readonly unknown: readonly Touch[];
}

/** Answers whether a transparent socket takes what TPROXY would hand over. */
export type TproxyLookup = (target: TproxyTarget) => boolean;

/** Sends a packet through the base chains of `hook` (NF_INET_*). */
export function passFirewall(
  ruleset: Ruleset,
  packet: Packet,
  hook: number,
  lookup: TproxyLookup,
  mark = 0,
): Passage {
  const walk = new Walk(ruleset, packet, lookup, mark);
  const proto = packet.destination.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
  const bases = ruleset.chains
    .filter(({ base, family }) => {
      return base?.hook === hook && (family === proto || family === NFPROTO_INET);
    })
    .toSorted((a, b) => (a.base?.priority ?? 0) - (b.base?.priority ?? 0));
  for (const chain of bases) if (!walk.base(chain)) break;
  return walk.passage();
}

type Ending = "accept" | "drop" | "return" | "end";
type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };
const jumpsMax = 16;

class Walk {
  private readonly ruleset: Ruleset;
  private readonly packet: Packet;
  private readonly lookup: TproxyLookup;
  private readonly state: Mutable<Passage> & { marking: (Touch & { mark: number })[] };
  private readonly unknown: Touch[] = [];

  constructor(ruleset: Ruleset, packet: Packet, lookup: TproxyLookup, mark: number) {
    this.ruleset = ruleset;
    this.packet = packet;
    this.lookup = lookup;
    this.state = {
      verdict: "accept",
      mark,
      marking: [],
      tproxy: undefined,
      missed: undefined,
      dropped: undefined,
      unknown: this.unknown,
    };
  }

  passage(): Passage {
    return this.state;
  }

  /** Whether the packet lives on after a base chain. */
  base(chain: RuledChain): boolean {
    const ending = this.chain(chain, 0);
    if (ending === "drop") return false;
    if (ending !== "accept" && chain.base?.policy === NF_DROP) {
      this.drop({ rule: `${chainName(chain)}, whose policy is drop` });
      return false;
    }
    return true;
  }

  private chain(chain: RuledChain, depth: number): Ending {
    for (const rule of chain.rules) {
      const ending = this.rule(rule, depth);
      if (ending === "return") return "end";
      if (ending !== undefined) return ending;
    }
    return "end";
  }

  /** How the chain ends because of this rule; undefined if it goes on with the next. */
  private rule(rule: FirewallRule, depth: number): Ending | undefined {
    const touch = touchOf(rule);
    const machine = new Machine(this.packet, this.state.mark, this.ruleset, rule);
    for (const expression of rule.expressions) {
      const effect = machine.run(expression);
      if (effect === "no match") return undefined;
      if (effect === "next") continue;
      if (machine.isMaybe) {
        this.unknown.push(touch);
        return undefined;
      }
      const ending = this.carryOut(effect, touch, rule, depth);
      if (ending === "break") return undefined;
      if (ending !== undefined) return ending;
      machine.mark = this.state.mark;
    }
    return undefined;
  }

  private carryOut(effect: Effect, touch: Touch, rule: FirewallRule, depth: number) {
    switch (effect.kind) {
      case "mark":
        this.state.mark = effect.mark;
        this.state.marking.push({ ...touch, mark: effect.mark });
        return undefined;
      case "tproxy":
        return this.tproxy(effect, touch);
      case "unknown":
        this.unknown.push(touch);
        return undefined;
      case "verdict":
        return this.verdict(effect, touch, rule, depth);
    }
  }

  private tproxy(effect: Effect & { kind: "tproxy" }, touch: Touch): Ending | "break" | undefined {
    const { port, address, isXtables } = effect;
    if (!this.lookup({ port, address })) {
      this.state.missed = { ...touch, port, address };
      // xt_TPROXY drops, nft's breaks the rule off: kernel.md of the design, point 4.
      if (!isXtables) return "break";
      this.drop(touch);
      return "drop";
    }
    this.state.tproxy = { ...touch, port, address };
    if (effect.mark !== undefined) {
      this.state.mark = effect.mark;
      this.state.marking.push({ ...touch, mark: effect.mark });
    }
    return isXtables ? "accept" : undefined;
  }

  private verdict(
    { code, chain }: Effect & { kind: "verdict" },
    touch: Touch,
    rule: FirewallRule,
    depth: number,
  ): Ending | undefined {
    if (code === NF_DROP) this.drop(touch);
    if (code === NF_DROP) return "drop";
    if (code === NF_ACCEPT) return "accept";
    if (code === NFT_RETURN) return "return";
    if (code !== NFT_JUMP && code !== NFT_GOTO) return undefined;
    const next = this.ruleset.chains.find((each) => {
      return each.family === rule.family && each.table === rule.table && each.name === chain;
    });
    if (next === undefined || depth >= jumpsMax) return undefined;
    const ending = this.chain(next, depth + 1);
    if (ending === "end") return code === NFT_GOTO ? "return" : undefined;
    return ending;
  }

  private drop(touch: Touch): void {
    this.state.verdict = "drop";
    this.state.dropped = touch;
  }
}

const familyNames = new Map([
  [NFPROTO_INET, "inet"],
  [NFPROTO_IPV4, "ip"],
  [NFPROTO_IPV6, "ip6"],
]);

function chainName({ family, table, name }: Pick<Chain, "family" | "table" | "name">): string {
  return `${familyNames.get(family) ?? family} ${table} ${name}`;
}

function touchOf({ family, table, chain, handle, comment }: FirewallRule): Touch {
  const rule = `${chainName({ family, table, name: chain })} handle ${handle ?? "?"}`;
  return comment === undefined ? { rule } : { rule, comment };
}
