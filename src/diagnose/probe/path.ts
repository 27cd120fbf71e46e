/**
 * Where on its way through the kernel a captured packet ended, by the kernel's own evidence. Pure.
 *
 * The way of a SYN for an address that is not this host's:
 * 1. arrival: the IP layer of this host receives it;
 * 2. mark: a firewall rule in PREROUTING marks it;
 * 3. rule: an ip rule sends what has the mark to a table of its own;
 * 4. route: a local route of that table delivers it to this host;
 * 5. socket: TCP finds a listener on its port;
 * 6. answer: the SYN-ACK leaves from the address that is not ours, which IPv4 allows only to a
 *    socket with IP_TRANSPARENT (FLOWI_FLAG_ANYSRC in ip_route_output_key_hash_rcu()).
 */

import { errnoName } from "../../../ffi/errno.ts";
import { RTN_LOCAL, RTN_UNICAST } from "../../../ffi/netlink/constants.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import type { Family } from "../../net/address.ts";
import { formatMark, type MaskedMark } from "../../net/mark.ts";

/** The steps in their order; `delivered` is the end of a way that has no gap. */
export const pathSteps = [
  "arrival",
  "mark",
  "rule",
  "route",
  "socket",
  "answer",
  "delivered",
] as const;
export type PathStep = (typeof pathSteps)[number];

/** The result of a look-up in the routing tables (RTM_GETROUTE). */
export type RouteAnswer =
  | { readonly kind: "route"; readonly type: number; readonly table: number }
  | { readonly kind: "error"; readonly errno: number };

/** How far the kernel's counters have moved; `names` of `counters.ts` has their names. */
export interface PathCounters {
  readonly received: number;
  readonly addressErrors: number;
  readonly noRoutes: number;
  readonly forwarded: number;
  readonly segments: number;
  readonly resets: number;
  readonly answersUnrouted: number;
  readonly listenDrops: number;
}
export type PathCounterName = keyof PathCounters;

/** An ip rule that selects the mark. */
export interface SelectingRule {
  readonly priority: number;
  readonly table: number;
  /** Whether its table has a local route for the destination. */
  readonly hasLocalRoute: boolean;
}

/** All that was seen of one attempt to connect. */
export interface PathObservations {
  readonly family: Family;
  /** Whom the packet was for. */
  readonly destination: string;
  readonly port: number;
  readonly mark: MaskedMark;
  /** Whether the client got its connection. */
  readonly connected: boolean;
  /** Firewall rules that set the mark, and the packets that they have counted meanwhile. */
  readonly marking: { readonly rules: number; readonly packets: number };
  /** How the kernel routes such a packet without the mark, and with it. */
  readonly unmarked: RouteAnswer;
  readonly marked: RouteAnswer;
  readonly selecting: readonly SelectingRule[];
  /** The listener on the port. `transparent` is undefined if it is not known. */
  readonly listener: { readonly transparent: boolean | undefined } | undefined;
  readonly counters: PathCounters;
  /** The names of this family's counters in /proc. */
  readonly counterNames: Readonly<Record<PathCounterName, string>>;
}

/** Where the packet ended and why: one sentence, and all facts that bear on it. */
export interface PathVerdict {
  readonly step: PathStep;
  readonly reason: string;
  readonly evidence: readonly string[];
}

/** Finds the first step that the observations show to be missing. */
export function diagnosePath(seen: PathObservations): PathVerdict {
  return { ...conclude(seen), evidence: evidenceOf(seen) };
}

type Judgement = Pick<PathVerdict, "step" | "reason">;

function conclude(seen: PathObservations): Judgement {
  if (seen.connected) return { step: "delivered", reason: "The client has its connection." };
  if (seen.counters.received === 0) {
    return { step: "arrival", reason: `No packet for ${seen.destination} has arrived here.` };
  }
  return judgeDelivery(seen) ?? judgeSocket(seen) ?? judgeAnswer(seen);
}

/** Steps 2 to 4: whether the packet is routed to this host. */
function judgeDelivery(seen: PathObservations): Judgement | undefined {
  const { marking, unmarked, marked, selecting, destination } = seen;
  const mark = formatMark(seen.mark);
  if (isLocal(unmarked)) return undefined;
  if (marking.packets === 0) {
    const cause =
      marking.rules === 0
        ? `No firewall rule sets mark ${mark}`
        : `The firewall rule that sets mark ${mark} has matched no packet`;
    return { step: "mark", reason: `${cause}. ${fate(seen, unmarked)}` };
  }
  if (isLocal(marked)) return undefined;
  const [first] = selecting;
  if (first === undefined) {
    return { step: "rule", reason: `No ip rule asks for mark ${mark}. ${fate(seen, marked)}` };
  }
  if (selecting.some(({ hasLocalRoute }) => hasLocalRoute)) {
    const reason = `Another ip rule comes before the one for mark ${mark}. ${fate(seen, marked)}`;
    return { step: "rule", reason };
  }
  const reason =
    `Ip rule ${first.priority} sends mark ${mark} to table ${first.table}, which has no local ` +
    `route for ${destination}. ${fate(seen, marked)}`;
  return { step: "route", reason };
}

/** Step 5: whether TCP has found somebody to give the packet to. */
function judgeSocket({ listener, port, counters, counterNames, family }: PathObservations) {
  if (listener !== undefined) return undefined;
  const reset =
    counters.resets === 0
      ? ""
      : family === 4
        ? `, and the reset (${moved("resets", counters, counterNames)}) cannot leave from there`
        : `: reset (${moved("resets", counters, counterNames)})`;
  return { step: "socket", reason: `Nothing listens on port ${port}${reset}.` } as const;
}

/** Step 6: the listener has the packet, so the answer is what is missing. */
function judgeAnswer(seen: PathObservations): Judgement {
  const { listener, counters, counterNames, destination } = seen;
  const drops = moved("listenDrops", counters, counterNames);
  if (counters.answersUnrouted > 0) {
    const unrouted = moved("answersUnrouted", counters, counterNames);
    const option = listener?.transparent === false ? "without IP_TRANSPARENT " : "";
    const reason =
      `The listener has the packet, but ${option}its SYN-ACK finds no route from ${destination} ` +
      `(${unrouted}).`;
    return { step: "answer", reason };
  }
  if (counters.listenDrops > 0) {
    return { step: "socket", reason: `The listener took no more connections (${drops}).` };
  }
  return { step: "answer", reason: "The listener has the packet; no answer reached the client." };
}

/** The end of a packet that is not routed to this host. */
function fate({ counters, counterNames, destination }: PathObservations, answer: RouteAnswer) {
  const by = (name: PathCounterName) =>
    counters[name] > 0 ? ` (${moved(name, counters, counterNames)})` : "";
  if (answer.kind === "route" && answer.type === RTN_UNICAST) {
    return `So the packet is forwarded by table ${answer.table}${by("forwarded")}.`;
  }
  const dropped = by("addressErrors") || by("noRoutes");
  return `So ${destination} is not this host's, and the packet is dropped${dropped}.`;
}

/**
 * Whether an ip rule selects packets by this mark. Other selectors than the mark are not looked at.
 */
export function selectsMark(rule: Rule, mark: MaskedMark): boolean {
  if (rule.mark === undefined || rule.invert) return false;
  return (mark.value & (rule.mask ?? 0xffff_ffff)) >>> 0 === rule.mark;
}

function isLocal(answer: RouteAnswer): boolean {
  return answer.kind === "route" && answer.type === RTN_LOCAL;
}

function evidenceOf(seen: PathObservations): string[] {
  const { marking, selecting, listener, counters, counterNames } = seen;
  const mark = formatMark(seen.mark);
  const changed = (Object.keys(counters) as PathCounterName[]).filter((name) => counters[name] > 0);
  return [
    `firewall rules that set mark ${mark}: ${marking.rules}, packets ${marking.packets}`,
    `route look-up: ${describeAnswer(seen.unmarked)}`,
    `route look-up with the mark: ${describeAnswer(seen.marked)}`,
    `ip rules for the mark: ${selecting.map(describeRule).join(", ") || "none"}`,
    `listener on port ${seen.port}: ${describeListener(listener)}`,
    `counters: ${changed.map((name) => moved(name, counters, counterNames)).join(", ") || "none"}`,
  ];
}

function describeAnswer(answer: RouteAnswer): string {
  if (answer.kind === "error") return errnoName(answer.errno);
  const { type, table } = answer;
  const kind = type === RTN_LOCAL ? "local" : type === RTN_UNICAST ? "unicast" : `type ${type}`;
  return `${kind}, table ${table}`;
}

function describeRule({ priority, table, hasLocalRoute }: SelectingRule): string {
  return `${priority} to table ${table} (local route: ${hasLocalRoute ? "yes" : "no"})`;
}

function describeListener(listener: PathObservations["listener"]): string {
  if (listener === undefined) return "none";
  if (listener.transparent === undefined) return "yes";
  return `IP_TRANSPARENT ${listener.transparent ? 1 : 0}`;
}

function moved(
  name: PathCounterName,
  counters: PathCounters,
  names: Readonly<Record<PathCounterName, string>>,
): string {
  return `${names[name]} +${counters[name]}`;
}
