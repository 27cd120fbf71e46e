/**
 * Finds what a Plan would conflict with on this host, before anything is changed. Pure.
 *
 * Mark bits of other programs, from their sources: Tailscale 0xff0000 (util/linuxfw), of which it
 * uses 0x80000 and 0x40000; kube-proxy 0x4000 and 0x8000 (iptablesMasqueradeBit and the mark for
 * drop); Cilium all but the lowest 8 (pkg/datapath/linux/linux_defaults/mark.go); Calico
 * 0xffff0000 (IptablesMarkMask). Docker sets marks only inside the namespaces of swarm services,
 * and so has no entry.
 */

import { AF_INET6 } from "../../../ffi/constants.ts";
import type { Table } from "../../../ffi/netlink/nftables/table.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import type { Family } from "../../net/address.ts";
import { formatMark, fullMask, type MaskedMark } from "../../net/mark.ts";
import type { CurrentState } from "./current-state.ts";
import { describeRoute, describeRule } from "./describe.ts";
import type { DesiredState, TableContents } from "./desired-state.ts";
import { isPlanned, isSameFirewall } from "./differences.ts";
import { foreignMarks } from "./foreign-marks.ts";
import type { Setup } from "./setups.ts";

/** Why the Plan should not be applied. */
export interface Conflict {
  /** The fact. */
  readonly text: string;
  /** What of the set-up another value would help; undefined: nothing of it. */
  readonly setting?: "mark" | "guard-mark" | "table";
}

interface KnownTool {
  readonly name: string;
  readonly mask: number;
  /** An interface that it makes. */
  readonly interfaces: RegExp;
  /** A chain that it makes, with nft or iptables-nft. */
  readonly chains: RegExp;
}

const knownTools: readonly KnownTool[] = [
  { name: "Tailscale", mask: 0xff0000, interfaces: /^tailscale\d/, chains: /^ts-(input|forward)/ },
  { name: "kube-proxy", mask: 0xc000, interfaces: /^kube-(ipvs|bridge)/, chains: /^KUBE-/ },
  { name: "Cilium", mask: 0xffffff00, interfaces: /^cilium_/, chains: /^(OLD_)?CILIUM_/ },
  { name: "Calico", mask: 0xffff0000, interfaces: /^cali[0-9a-f]/, chains: /^cali-/ },
];

/**
 * Every conflict of the Plan's parts with what is there; `tag` is the protocol number of ours,
 * `guards` the marks that identify our own packets.
 */
export function findConflicts(
  parts: DesiredState,
  live: CurrentState,
  tag: number | undefined,
  guards: readonly MaskedMark[] = [],
): Conflict[] {
  const isForeign = (rule: Rule) =>
    (tag === undefined || rule.protocol !== tag) && !isPlanned(parts, { kind: "rule", rule });
  const others = { ...live, rules: live.rules.filter(isForeign) };
  return [
    ...firewallConflicts(parts.firewall, live),
    ...priorityConflicts(parts, others.rules),
    ...planMarks(parts).flatMap(([mark, families]) => markConflicts(mark, families, others)),
    ...guards.flatMap((guard) => guardConflicts(guard, parts, others)),
    ...routeConflicts(parts, live, tag),
  ];
}

/**
 * Returns who else uses bits of a mark that packets of these families will get. `others` has the
 * ip rules that are neither the Plan's nor another set-up's.
 */
export function markConflicts(
  mark: MaskedMark,
  families: readonly Family[],
  others: Pick<CurrentState, "rules" | "others" | "interfaces" | "chains" | "markWrites">,
): Conflict[] {
  return [
    ...ruleConflicts(mark, others.rules),
    ...setupConflicts(mark, families, others),
    ...toolConflicts(mark, others),
    ...foreignMarks(mark, families, others.markWrites),
  ].map((who) => ({
    text: `the mark ${formatMark(mark)} shares bits with ${who}`,
    setting: "mark",
  }));
}

/** The table that a running process holds, which nobody else can change: no --force helps. */
export function heldTable({ tables }: Pick<CurrentState, "tables">): HeldTable | undefined {
  return tables.find((table): table is HeldTable => table.owner !== undefined);
}

/** A table and the netlink port of the process that has it to itself. */
export type HeldTable = Table & { readonly owner: number };

/**
 * Whether a table is this program's: it bears our name and our comments, does what the Plan says,
 * or does nothing at all, as the printed script's before its last command.
 */
export function isOurs(table: TableContents, wanted?: TableContents): boolean {
  const rules = table.chains.flatMap((chain) => chain.rules);
  if (rules.length === 0) return true;
  if (rules.some(({ comment }) => comment?.startsWith(`${table.table.name}: `))) return true;
  return wanted !== undefined && isSameFirewall(wanted, table);
}

function firewallConflicts(wanted: TableContents, { firewall }: CurrentState): Conflict[] {
  const { name } = wanted.table;
  if (firewall !== undefined && !isOurs(firewall, wanted)) {
    return [{ text: `there is a firewall table inet ${name} that tproxy did not make` }];
  }
  return [];
}

function priorityConflicts(parts: DesiredState, foreign: readonly Rule[]): Conflict[] {
  return planRules(parts).flatMap(({ family, priority }) =>
    foreign
      .filter((other) => other.family === family && other.priority === priority)
      .map((other) => ({ text: `the priority ${priority} is taken by "${describeRule(other)}"` })),
  );
}

function ruleConflicts(mark: MaskedMark, rules: readonly Rule[]): string[] {
  return rules.filter((rule) => sharesMark(mark, rule)).map((rule) => `"${describeRule(rule)}"`);
}

/**
 * Whether a rule looks at the bits of the mark. One without a mask looks at all of them, as every
 * rule that was made without thinking of others does: it counts if either would take the other's
 * packets.
 */
function sharesMark({ value, mask }: MaskedMark, rule: Rule): boolean {
  const { mark: other = 0, mask: otherMask = rule.mark === undefined ? 0 : fullMask } = rule;
  if ((mask & otherMask) >>> 0 === 0) return false;
  if (otherMask !== fullMask || mask === fullMask) return true;
  return (other & mask) >>> 0 === value || other === value;
}

/** Returns who else routes packets with that mark, or sets it on packets of other programs. */
function guardConflicts(
  guard: MaskedMark,
  parts: DesiredState,
  { rules, markWrites }: Pick<CurrentState, "rules" | "markWrites">,
): Conflict[] {
  const families = [...new Set(planRules(parts).map(familyOf))];
  return [...ruleConflicts(guard, rules), ...foreignMarks(guard, families, markWrites)].map(
    (who) => ({
      text: `the mark ${formatMark(guard)} of our own packets shares bits with ${who}`,
      setting: "guard-mark",
    }),
  );
}

function familyOf({ family }: Rule): Family {
  return family === AF_INET6 ? 6 : 4;
}

/**
 * A set-up that marks captured packets with the same bits, or its proxy's own packets. What
 * lets its connections end wants no more than that they are delivered here, as we do.
 */
function setupConflicts(
  { mask }: MaskedMark,
  families: readonly Family[],
  { others }: Pick<CurrentState, "others">,
): string[] {
  return others
    .filter(({ draining }) => !draining)
    .filter(({ marks, bitsRead }) => {
      const own = marks.filter(({ mark }) => (mark.mask & mask) !== 0);
      const guardBits = bitsRead & ~marks.reduce((bits, { mark }) => bits | mark.mask, 0);
      return own.some(({ family }) => families.includes(family)) || (guardBits & mask) !== 0;
    })
    .map((setup) => `another set-up of tproxy, ${setupText(setup)}`);
}

/** Where a set-up is to be found. */
function setupText({ name, tables }: Pick<Setup, "name" | "tables">): string {
  return tables.length === 0 ? `the iptables chain ${name}` : `the firewall table inet ${name}`;
}

function toolConflicts(
  mark: MaskedMark,
  { interfaces, chains }: Pick<CurrentState, "interfaces" | "chains">,
): string[] {
  const present = knownTools.filter(
    (tool) =>
      interfaces.some((name) => tool.interfaces.test(name)) ||
      chains.some(({ name }) => tool.chains.test(name)),
  );
  return present
    .filter((tool) => (tool.mask & mark.mask) !== 0)
    .map((tool) => `those of ${tool.name} (0x${tool.mask.toString(16)}), which is on this host`);
}

function routeConflicts(
  parts: DesiredState,
  { routes }: CurrentState,
  tag: number | undefined,
): Conflict[] {
  const tables = new Set(parts.routing.flatMap((p) => (p.kind === "route" ? [p.route.table] : [])));
  return routes
    .filter((route) => tables.has(route.table) && (tag === undefined || route.protocol !== tag))
    .filter((route) => !isPlanned(parts, { kind: "route", route }))
    .map((route) => ({
      text: `the table ${route.table} has a route of others, "${describeRoute(route)}"`,
      setting: "table",
    }));
}

function planRules(parts: DesiredState): Rule[] {
  return parts.routing.flatMap((part) => (part.kind === "rule" ? [part.rule] : []));
}

/** The marks of the Plan's rules, each once, with the families whose packets get it. */
function planMarks(parts: DesiredState): [mark: MaskedMark, families: Family[]][] {
  const marks = new Map<string, [MaskedMark, Family[]]>();
  for (const rule of planRules(parts)) {
    const { mark, mask = fullMask } = rule;
    if (mark === undefined) continue;
    const masked = { value: mark as MaskedMark["value"], mask };
    const entry = marks.get(formatMark(masked)) ?? [masked, []];
    entry[1].push(familyOf(rule));
    marks.set(formatMark(masked), entry);
  }
  return [...marks.values()];
}
