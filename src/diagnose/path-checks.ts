/**
 * The checks of one packet's way, in the order of the way. Pure: facts in, findings out. Every
 * check stands alone, so that one fault does not hide the next.
 */

import { errnoName } from "../../ffi/errno.ts";
import {
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
  RTN_BLACKHOLE,
  RTN_LOCAL,
  RTN_PROHIBIT,
  RTN_UNICAST,
  RTN_UNREACHABLE,
} from "../../ffi/netlink/constants.ts";
import type { Rule } from "../../ffi/netlink/rule.ts";
import { formatAddress, formatBytes } from "../net/address.ts";
import { formatMark, fullMask } from "../net/mark.ts";
import { type Finding, failure, fine, unknown, warning } from "./finding.ts";
import type { Touch } from "./firewall.ts";
import { boundTo, endpointText, findSocket, isWildcard, waitingOn } from "./lookup.ts";
import type { RouteLookup } from "./machine.ts";
import { isLocal, type PathFacts } from "./path-facts.ts";
import { bestRoute } from "./policy.ts";
import { validationFinding } from "./source-checks.ts";

/** One check; undefined when it does not apply. */
export type PathCheck = (facts: PathFacts) => Finding | undefined;

/** The way of a packet to the listener, and of the first answer. */
export const wayChecks: readonly PathCheck[] = [
  checkFirewall,
  checkDelivery,
  checkSocket,
  checkAnswer,
];

/** What else can spoil it. */
export const sideChecks: readonly PathCheck[] = [checkOverlap, checkReplies, checkBridge];

/** Runs checks in their order. */
export function judgePath(facts: PathFacts, checks: readonly PathCheck[]): readonly Finding[] {
  return checks.map((check) => check(facts)).filter((finding) => finding !== undefined);
}

function checkFirewall(facts: PathFacts): Finding | undefined {
  const { passage, capture } = facts;
  const what = describePacket(facts);
  if (passage === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return unknown("firewall", text, "sudo tproxy doctor …");
  }
  const { dropped, missed } = passage;
  if (dropped !== undefined && dropped.rule !== missed?.rule) {
    return failure("firewall", `Rule ${name(dropped)} drops it.`, inspect(dropped));
  }
  if (capture === undefined) {
    if (passage.marking.length > 0) {
      const marked = formatMark({ value: passage.mark as never, mask: fullMask });
      const by = passage.marking.map(name).join(", then ");
      return fine("firewall", `Rule ${by} gives it the mark ${marked}.`);
    }
    if (missed !== undefined) return fine("firewall", `Rule ${name(missed)} hands it over.`);
    return uncaptured(facts) ?? fine("firewall", `No firewall rule marks a packet of ${what}.`);
  }
  const { value, mask } = capture.mark;
  const isOurs = (mark: number) => (mark & mask) >>> 0 === value;
  const ours = passage.marking.find(({ mark }) => isOurs(mark));
  const wants = formatMark(capture.mark);
  if (!isOurs(passage.mark)) {
    const last = passage.marking.at(-1);
    if (ours !== undefined && last !== undefined) {
      const text =
        `Rule ${name(ours)} sets mark ${wants} on it, but rule ${name(last)} comes after it ` +
        `and leaves 0x${last.mark.toString(16)}.`;
      return failure("firewall", text, inspect(last));
    }
    if (missed !== undefined) return fine("firewall", `Rule ${name(missed)} matches it.`);
    return (
      uncaptured(facts) ??
      failure(
        "firewall",
        `No firewall rule sets mark ${wants} on ${what}.`,
        "tproxy routes --print",
      )
    );
  }
  const by = ours === undefined ? "" : `Rule ${name(ours)} sets mark ${wants} on it`;
  const target = passage.tproxy ?? missed;
  if (capture.toPort !== undefined && target?.port !== capture.toPort) {
    const other = target === undefined ? "no rule" : `rule ${name(target)}`;
    const where = target === undefined ? "anywhere" : `to port ${target.port}`;
    const text = `${by}, but ${other} hands it ${where} instead of to port ${capture.toPort}.`;
    return failure("firewall", text, "tproxy routes --print");
  }
  return fine("firewall", target === undefined ? `${by}.` : `${by} and hands it over by TPROXY.`);
}

/** Not captured as far as can be seen, but not all can be seen. */
function uncaptured({ passage, legacyTables }: PathFacts): Finding | undefined {
  const [first] = passage?.unknown ?? [];
  if (first !== undefined) {
    const text = `Whether rule ${name(first)} matches cannot be told from here.`;
    return unknown("firewall", text, "tproxy doctor --probe DST:PORT");
  }
  if (!legacyTables.includes("mangle")) return undefined;
  const text = "There are rules of iptables-legacy, which netlink does not show.";
  return unknown("firewall", text, "tproxy doctor --probe DST:PORT");
}

function checkDelivery(facts: PathFacts): Finding {
  const { marked, unmarked, decision, packet, mark, tables, capture, loUp } = facts;
  const to = formatAddress(packet.destination);
  const { rule, route } = decision ?? {};
  if (isLocal(marked)) {
    if (isLocal(unmarked)) return fine("ip rule", `${to} is an address of this host.`);
    const table = marked.kind === "route" ? marked.route.table : 0;
    const by = rule === undefined ? "An ip rule" : `Ip rule ${describe(rule)}`;
    const text = `${by} finds a local route for ${to} in table ${table}: it is delivered here.`;
    return fine("ip rule", text);
  }
  // The tables would deliver it, the kernel does not: then it does not believe the source.
  if (route?.type === RTN_LOCAL) return validationFinding(facts);
  const selecting = tables.rules.filter((each) => asksFor(each, mark));
  const [ours] = selecting;
  const markText = capture === undefined ? hex(mark) : formatMark(capture.mark);
  const fate = fateOf(facts);
  const table = capture?.table ?? ours?.table ?? 100;
  const v6 = packet.destination.family === 6 ? "-6 " : "";
  if (mark === 0) {
    if (facts.passage !== undefined && uncaptured(facts) === undefined)
      return failure("ip rule", `${to} is not this host's. ${fate}`);
    const doubt = "and whether it is given one is not known";
    return unknown("ip rule", `${to} is not this host's without a mark, ${doubt}.`);
  }
  if (ours === undefined) {
    const priority = capture?.priority ?? 100;
    const repair = `ip ${v6}rule add fwmark ${markText} lookup ${table} priority ${priority}`;
    return failure("ip rule", `No ip rule asks for mark ${markText}. ${fate}`, repair);
  }
  const able = selecting.find((each) => {
    return bestRoute(tables.routes, each.table, packet.destination)?.type === RTN_LOCAL;
  });
  if (able !== undefined) {
    const winner = rule === undefined ? "Another ip rule" : `Ip rule ${describe(rule)}`;
    const shares = rule?.mark === undefined ? "" : " asks for bits of the same mark and";
    const text = `${winner}${shares} comes before ip rule ${describe(able)} and wins. ${fate}`;
    const repair =
      rule?.priority === undefined
        ? undefined
        : `ip ${v6}rule del priority ${able.priority} && ip ${v6}rule add fwmark ${markText} ` +
          `lookup ${able.table} priority ${Math.max(1, rule.priority - 1)}`;
    return failure("ip rule", text, repair);
  }
  if (capture !== undefined && ours.table !== capture.table) {
    const text =
      `Ip rule ${describe(ours)} sends mark ${markText} to table ${ours.table}, not to table ` +
      `${capture.table}. ${fate}`;
    const repair =
      `ip ${v6}rule del priority ${ours.priority} && ip ${v6}rule add fwmark ${markText} ` +
      `lookup ${capture.table} priority ${capture.priority ?? ours.priority}`;
    return failure("ip rule", text, repair);
  }
  const down = loUp ? "" : ", since lo is down";
  const up = loUp ? "" : "ip link set lo up && ";
  const every = packet.destination.family === 4 ? "0.0.0.0/0" : "::/0";
  return failure(
    "local route",
    `Table ${ours.table}, where ip rule ${describe(ours)} sends mark ${markText}, has no local ` +
      `route for ${to}${down}. ${fate}`,
    `${up}ip ${v6}route add local ${every} dev lo table ${ours.table}`,
  );
}

function checkSocket(facts: PathFacts): Finding | undefined {
  const { wanted, sockets, packet, passage, capture, names } = facts;
  const { protocol, port } = wanted;
  const waiting = waitingOn(sockets, protocol, port);
  const [first] = waiting;
  const verb = protocol === "tcp" ? "listens" : "waits";
  const endpoint = endpointText(wanted.address, port);
  const loss = passage?.missed === undefined ? "" : `, so rule ${name(passage.missed)} gives up`;
  const start = `tproxy listen ${protocol === "udp" ? "--udp " : ""}:${port}`;
  if (first === undefined) {
    return failure("listener", `Nothing ${verb} on ${protocol} port ${port}${loss}.`, start);
  }
  const found = findSocket(sockets, wanted);
  if (found === undefined) {
    const isTproxy = capture?.toPort !== undefined || passage?.missed !== undefined;
    const why = isTproxy ? ` (TPROXY without an address takes that of ${packet.iif})` : "";
    const held = waiting.map((each) => {
      const device = names.get(each.device);
      return device === undefined ? boundTo(each) : `${boundTo(each)} on ${device}`;
    });
    const text =
      `The look-up will ask for ${endpoint}${why}, but the socket on port ${port} is bound to ` +
      `${held.join(", ")}${loss}.`;
    const own = formatBytes(first.local);
    const repair = isTproxy
      ? `bind it to 0.0.0.0:${port}, or name its address in the rule: --on-ip ${own} (iptables), ` +
        `tproxy to ${boundTo(first)} (nft)`
      : `bind it to ${packet.destination.family === 4 ? "0.0.0.0" : "[::]"}:${port}`;
    return failure("listener", text, repair);
  }
  const isForeign = packet.destinationType !== RTN_LOCAL;
  if (isForeign && found.transparent === false) {
    const text =
      `The listener on ${boundTo(found)} does not have IP_TRANSPARENT${loss}: ` +
      `it cannot answer from ${formatAddress(packet.destination)}.`;
    return failure("listener", text, start);
  }
  if (isForeign && found.transparent === undefined) {
    const text = `This kernel does not tell whether ${boundTo(found)} has IP_TRANSPARENT.`;
    return unknown("listener", text);
  }
  const with_ = found.transparent ? "with IP_TRANSPARENT " : "";
  return fine("listener", `A socket ${with_}${verb} on ${boundTo(found)}, where it is looked up.`);
}

function checkAnswer({ back, packet, names }: PathFacts): Finding {
  const to = formatAddress(packet.source);
  const from = formatAddress(packet.destination);
  const what = packet.protocol === "tcp" ? "The SYN-ACK" : "An answer";
  if (back.kind === "error" || dead.has(back.route.type)) {
    const why = back.kind === "error" ? errnoName(back.errno) : dead.get(back.route.type);
    const text = `${what} from ${from} finds no route to ${to}: ${why}${hint(back)}.`;
    return failure("answer", text, `ip route get ${to}`);
  }
  const by = names.get(back.route.oif ?? 0) ?? "?";
  const other = by === packet.iif || isLocal(back) ? "" : ", another interface than it came by";
  return fine("answer", `${what} from ${from} leaves for ${to} by ${by}${other}.`);
}

const dead = new Map([
  [RTN_BLACKHOLE, "a blackhole route"],
  [RTN_UNREACHABLE, "an unreachable route"],
  [RTN_PROHIBIT, "a prohibit route"],
]);

/** What routes of a table turn into: fib_props[] of net/ipv4/fib_semantics.c. */
function hint(back: RouteLookup): string {
  const kinds: Record<string, string> = {
    EINVAL: " (as a blackhole route gives)",
    EACCES: " (as a prohibit route gives)",
    EHOSTUNREACH: " (as an unreachable route gives)",
  };
  return back.kind === "error" ? (kinds[errnoName(back.errno)] ?? "") : "";
}

/** Others who read bits of the same mark. */
function checkOverlap({ tables, capture, decision }: PathFacts): Finding | undefined {
  if (capture === undefined) return undefined;
  const { mask } = capture.mark;
  const others = tables.rules.filter((rule) => {
    const { table, priority } = rule;
    const isNamed = table === capture.table || priority === capture.priority;
    const isOurs = isNamed || rule === decision?.rule;
    return rule.mark !== undefined && !isOurs && ((rule.mask ?? fullMask) & mask) !== 0;
  });
  const [first] = others;
  if (first === undefined) return undefined;
  const text =
    `Ip rule ${describe(first)} reads bits of mark ${formatMark(capture.mark)} too: ` +
    "what the one marks, the other may route.";
  return warning("marks", text, "choose bits that nobody uses: --mark 0x10000000/0x10000000");
}

/** UDP answers leave from a socket bound to the original destination, where nothing refuses it. */
function checkReplies({ packet, wanted, sockets }: PathFacts): Finding | undefined {
  if (packet.protocol !== "udp" || wanted.port === packet.port) return undefined;
  const holder = waitingOn(sockets, "udp", packet.port).find(isWildcard);
  if (holder === undefined) return fine("udp answers", `Nothing holds udp port ${packet.port}.`);
  const from = endpointText(packet.destination.bytes, packet.port);
  const text =
    `A socket on ${boundTo(holder)} (inode ${holder.inode}) holds every address of that port: ` +
    `binding ${from} for the answers fails with EADDRINUSE. tproxy sends them as raw packets.`;
  const repair = `bind that service to an address of its own; ss -ulnp "sport = :${packet.port}"`;
  return warning("udp answers", text, repair);
}

function checkBridge({ bridgeCall, packet, capture }: PathFacts): Finding | undefined {
  if (!bridgeCall) return undefined;
  const v = packet.destination.family === 4 ? "iptables" : "ip6tables";
  const text =
    `net.bridge.bridge-nf-call-${v} is 1 and ${packet.iif} is a bridge: its packets pass ` +
    "PREROUTING before they are routed, and lose the socket that TPROXY gives them.";
  const make = capture?.toPort === undefined ? warning : failure;
  return make("bridge", text, `sysctl -w net.bridge.bridge-nf-call-${v}=0`);
}

function asksFor(rule: Rule, mark: number): boolean {
  if (rule.mark === undefined || rule.mark === 0 || rule.invert) return false;
  return (mark & (rule.mask ?? fullMask)) >>> 0 === rule.mark;
}

/** An ip rule as people know it: `100 (fwmark 0x1/0x1 lookup 100)`. */
export function describe(rule: Rule): string {
  const mark =
    rule.mark === undefined
      ? "from all"
      : `fwmark ${formatMark({ value: rule.mark as never, mask: rule.mask ?? fullMask })}`;
  const tables: Record<number, string> = { [RT_TABLE_LOCAL]: "local", [RT_TABLE_MAIN]: "main" };
  const iif = rule.iif === undefined ? "" : ` iif ${rule.iif}`;
  const where = rule.action === undefined ? `lookup ${tables[rule.table] ?? rule.table}` : "refuse";
  return `${rule.priority ?? 0} (${mark}${iif} ${where})`;
}

/** What becomes of a packet that is not delivered here. */
function fateOf({ marked, names }: PathFacts): string {
  if (marked.kind === "error") return `So it is dropped (${errnoName(marked.errno)}).`;
  const { type, oif = 0, table } = marked.route;
  if (type === RTN_UNICAST) {
    return `So it is routed on by ${names.get(oif) ?? "?"}, table ${table}, past the proxy.`;
  }
  return `So it meets ${dead.get(type) ?? `a route of type ${type}`}.`;
}

/** A packet in words: `tcp from 192.0.2.2 by eth0 to 8.8.8.8:80`. */
function describePacket({ packet }: PathFacts): string {
  const { protocol, source, iif, destination, port } = packet;
  const to = endpointText(destination.bytes, port);
  return `${protocol} from ${formatAddress(source)} by ${iif} to ${to}`;
}

function name({ rule, comment }: Touch): string {
  return comment === undefined ? rule : `${rule} "${comment}"`;
}

function inspect({ rule }: Touch): string | undefined {
  const [family, table, chain] = rule.split(" ");
  return chain === undefined ? undefined : `nft -a list chain ${family} ${table} ${chain}`;
}

const hex = (mark: number) => `0x${mark.toString(16)}`;
