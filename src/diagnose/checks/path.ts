/**
 * The checks of one packet's way, in the order of the way. Pure: facts in, findings out. Every
 * check stands alone, so that one fault does not hide the next.
 */

import { errnoName } from "../../../ffi/errno.ts";
import { RTN_LOCAL, RTN_UNICAST } from "../../../ffi/netlink/constants.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import { ruleWords } from "../../capture/live/describe.ts";
import { formatAddress } from "../../net/address.ts";
import { formatMark, fullMask } from "../../net/mark.ts";
import { boundTo, endpointText, isWildcard, waitingOn } from "../lookup.ts";
import { bestRoute } from "../policy.ts";
import { isLocal, type PathFacts } from "../snapshot/path-facts.ts";
import { checkAnswer, deadRoutes } from "./answer.ts";
import { type Finding, failure, ok, unknown, warning } from "./finding.ts";
import { checkFirewall, checkInput, checkLater, uncaptured } from "./firewall.ts";
import { checkInterface } from "./interface.ts";
import { checkSocket } from "./socket.ts";
import { validationFinding } from "./source.ts";

/** One check; undefined when it does not apply. */
export type PathCheck = (facts: PathFacts) => Finding | undefined;

/** The way of a packet to the listener, and of the first answer. */
export const wayChecks: readonly PathCheck[] = [
  checkInterface,
  checkFirewall,
  checkDelivery,
  checkInput,
  checkSocket,
  checkAnswer,
  checkLater,
];

/** Other facts that can break it. */
export const sideChecks: readonly PathCheck[] = [checkOverlap, checkReplies, checkBridge];

/** Runs checks in their order. */
export function judgePath(facts: PathFacts, checks: readonly PathCheck[]): readonly Finding[] {
  return checks.map((check) => check(facts)).filter((finding) => finding !== undefined);
}

/** Whether the ip rules and routes deliver it to this host. */
export function checkDelivery(facts: PathFacts): Finding {
  const { marked, unmarked, decision, packet, mark, tables, capture, loUp } = facts;
  const to = formatAddress(packet.destination);
  const { rule, route } = decision ?? {};
  if (isLocal(marked)) {
    if (isLocal(unmarked)) return ok("ip rule", `${to} is an address of this host.`);
    const table = marked.kind === "route" ? marked.route.table : 0;
    const by = rule === undefined ? "An ip rule" : `Ip rule ${describe(rule)}`;
    const text = `${by} finds a local route for ${to} in table ${table}: it is delivered here.`;
    return ok("ip rule", text);
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
  return warning(
    "marks",
    text,
    "choose bits of the mark that nobody uses, such as 0x10000000/0x10000000",
  );
}

/** UDP answers leave from a socket bound to the original destination, where nothing refuses it. */
function checkReplies({ packet, wanted, sockets }: PathFacts): Finding | undefined {
  if (packet.protocol !== "udp" || wanted.port === packet.port) return undefined;
  const holder = waitingOn(sockets, "udp", packet.port).find(isWildcard);
  if (holder === undefined) return ok("udp answers", `Nothing holds udp port ${packet.port}.`);
  const from = endpointText(packet.destination.bytes, packet.port);
  const text =
    `A socket on ${boundTo(holder)} (inode ${holder.inode}) holds every address of that port: ` +
    `binding ${from} for the answers fails with EADDRINUSE. tproxy sends them as raw packets.`;
  const repair = `bind that service to an address of its own; ss -ulnp "sport = :${packet.port}"`;
  return warning("udp answers", text, repair);
}

function checkBridge({ bridgeCall, packet, capture }: PathFacts): Finding | undefined {
  if (bridgeCall === false) return undefined;
  const v = packet.destination.family === 4 ? "iptables" : "ip6tables";
  if (bridgeCall === undefined) {
    const text = `Whether net.bridge.bridge-nf-call-${v} is 1 cannot be read.`;
    return unknown("bridge", text);
  }
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
  return `${rule.priority ?? 0} (${ruleWords(rule)})`;
}

/** The end of a packet that is not delivered here. */
function fateOf({ marked, names }: PathFacts): string {
  if (marked.kind === "error") return `So it is dropped (${errnoName(marked.errno)}).`;
  const { type, oif = 0, table } = marked.route;
  if (type === RTN_UNICAST) {
    return `So it is routed on by ${names.get(oif) ?? "?"}, table ${table}, past the proxy.`;
  }
  return `So it meets ${deadRoutes.get(type) ?? `a route of type ${type}`}.`;
}

const hex = (mark: number) => `0x${mark.toString(16)}`;
