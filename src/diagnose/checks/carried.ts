/**
 * Whether the kernel by itself can carry a connection to an upstream, and what stands in the way.
 * Pure: facts in, findings out.
 */

import { errnoName } from "../../../ffi/errno.ts";
import { NF_IP_PRI_NAT_SRC } from "../../../ffi/netlink/constants.ts";
import { formatAddress } from "../../net/address.ts";
import { endpointText } from "../lookup.ts";
import type { Rewrite } from "../nft-evaluator/state.ts";
import { doubtsOf, type PacketTrace } from "../nft-evaluator/walk.ts";
import type { CarriedFacts, CarriedWay } from "../snapshot/carried-facts.ts";
import { type Finding, failure, ok, undecided, unknown, warning } from "./finding.ts";
import { doubtText, inspect, limitText, ruleText, subject } from "./firewall-words.ts";
import { letThrough } from "./repairs.ts";

/** The findings, in the order of the way. */
export function judgeCarried(facts: CarriedFacts): readonly Finding[] {
  return [
    checkTracking(facts),
    checkTranslation(facts),
    checkRoute(facts),
    checkForwarding(facts),
    checkThrough(facts),
    checkSource(facts),
    checkReply(facts),
    checkCounting(facts),
  ].filter((finding) => finding !== undefined);
}

/** The packet gets in, and connection tracking sees it. */
function checkTracking({ passage, packet, chains }: CarriedFacts): Finding | undefined {
  if (passage === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return unknown("firewall", text, "sudo tproxy explain …");
  }
  if (passage.dropped !== undefined) {
    const text = `${subject(passage.dropped)} drops it before it is routed.`;
    return failure("firewall", text, letThrough(passage.dropped, packet, chains));
  }
  if (passage.untracked) {
    const text =
      "A rule exempts it from connection tracking (notrack): the kernel translates only what it " +
      "tracks.";
    return failure("firewall", text, "nft -a list ruleset | grep notrack");
  }
  const doubts = doubtsOf(passage);
  if (doubts.length > 0) return undecided("firewall", doubtText(doubts, "Whether it comes in"));
  return ok("firewall", "The firewall lets it in, and its connection is tracked.");
}

/** Nobody else translates its destination first. */
function checkTranslation({ passage, question }: CarriedFacts): Finding | undefined {
  const other = foreign(passage, "destination", question.table);
  if (other === undefined) return undefined;
  const to = endpointText(question.packet.destination.bytes, question.packet.port);
  const text =
    `Rule ${ruleText(other)} translates its destination ${to} (DNAT): of two such rules the ` +
    "first one counts.";
  return failure("translation", text, inspect(other));
}

function checkRoute({ onward, question, oif, isHere, packet }: CarriedFacts): Finding {
  const { route } = onward;
  const to = formatAddress(question.upstream.address);
  if (route.kind === "error") {
    const text = `There is no route to the upstream ${to}: ${errnoName(route.errno)}.`;
    return failure("route", text, `ip route add ${to} via GATEWAY dev IFACE`);
  }
  if (isHere) return ok("route", `The upstream ${to} is on this host.`);
  if (oif !== packet.iif) return ok("route", `It leaves for the upstream ${to} by ${oif}.`);
  const text =
    `The upstream ${to} is on the clients' link, ${oif}: it would answer them past this host, so ` +
    "it sees an address of this host instead of the client's.";
  if (!question.keepsClient) return ok("route", `It leaves for the upstream ${to} by ${oif}.`);
  return warning("route", text, "route the upstream's replies to the clients by way of this host");
}

function checkForwarding({ forwards, isHere, packet }: CarriedFacts): Finding | undefined {
  if (isHere) return undefined;
  const name =
    packet.destination.family === 6
      ? "net.ipv6.conf.all.forwarding"
      : `net.ipv4.conf.${packet.iif}.forwarding`;
  if (forwards === undefined) return unknown("forwarding", `${name}: cannot be read in /proc/sys.`);
  if (forwards) return ok("forwarding", `Packets that come in by ${packet.iif} are forwarded.`);
  const all = packet.destination.family === 6 ? name : "net.ipv4.ip_forward";
  const text = `${name} is 0: no packet is forwarded to another host.`;
  return failure("forwarding", text, `sysctl -w ${all}=1`);
}

/** FORWARD, or INPUT of this host. */
function checkThrough(facts: CarriedFacts): Finding | undefined {
  const { onward, isHere, chains } = facts;
  const hook = isHere ? "input" : "forward";
  const stopped = stoppedAt(onward, chains, hook, "it");
  if (stopped !== undefined) return stopped;
  if (onward.through === undefined) return undefined;
  const name = isHere ? "INPUT" : "FORWARD";
  return ok(hook, `${name} lets it pass.${limitText(onward.through.limited)}`);
}

/** Whose address the upstream sees. */
function checkSource({ onward, question, chains, packet, oif }: CarriedFacts): Finding | undefined {
  const other = foreign(onward.out, "source", question.table);
  if (!question.keepsClient || oif === packet.iif) return undefined;
  if (other === undefined) {
    return onward.out === undefined ? undefined : ok("source", "The client's address is kept.");
  }
  const by = `Rule ${ruleText(other)} replaces the client's address (masquerade or SNAT)`;
  const base = chains.find(({ family, table, name, base: hook }) => {
    return hook !== undefined && other.base?.endsWith(` ${table} ${name}`) === true && family > 0;
  });
  if ((base?.base?.priority ?? 0) >= NF_IP_PRI_NAT_SRC) {
    return ok("source", `${by} of others; for these connections tproxy comes before it.`);
  }
  return failure("source", `${by} before tproxy can keep it.`, inspect(other));
}

/** The way back: the same hooks, and the same interface. */
function checkReply({ reply, replyOif, packet, chains }: CarriedFacts): Finding | undefined {
  if (reply === undefined) return undefined;
  const what = "the upstream's reply";
  if (reply.passage?.dropped !== undefined) {
    const text = `${subject(reply.passage.dropped)} drops ${what}.`;
    return failure("reply", text, letThrough(reply.passage.dropped, reply.packet, chains));
  }
  if (reply.route.kind === "error") {
    const client = formatAddress(packet.source);
    const errno = errnoName(reply.route.errno);
    const text = `There is no route back to the client ${client}: ${errno}.`;
    return failure("reply", text, `ip route add ${client} via GATEWAY dev ${packet.iif}`);
  }
  const stopped = stoppedAt(reply, chains, "reply", what);
  if (stopped !== undefined) return stopped;
  if (replyOif === packet.iif) return ok("reply", `The reply leaves by ${replyOif}.`);
  const text =
    `The reply leaves by ${replyOif}, and the request came in by ${packet.iif}: firewalls that ` +
    "see one half of a connection may drop it.";
  return warning("reply", text, `ip route get ${formatAddress(packet.source)}`);
}

/** Once our rules are there; before, they are about to turn it on. */
function checkCounting({ counts, chains, question }: CarriedFacts): Finding | undefined {
  const isCarried = chains.some(({ table }) => table === question.table);
  if (counts !== false || !isCarried) return undefined;
  const text =
    "nf_conntrack_acct is 0: bytes and packets of the kernel's connections are not counted.";
  return warning("counts", text, "sysctl -w net.netfilter.nf_conntrack_acct=1");
}

function stoppedAt(
  { through, out, packet }: CarriedWay,
  chains: CarriedFacts["chains"],
  check: string,
  what: string,
): Finding | undefined {
  for (const hook of [through, out]) {
    if (hook?.dropped === undefined) continue;
    const why = "no other rule can allow what one has dropped";
    const text = `${subject(hook.dropped)} drops ${what}: ${why}.`;
    return failure(check, text, letThrough(hook.dropped, packet, chains));
  }
  const doubts = [through, out].flatMap((each) => (each === undefined ? [] : doubtsOf(each)));
  if (doubts.length === 0) return undefined;
  return undecided(check, doubtText(doubts, `Whether ${what} passes`));
}

/** The rule of somebody else that replaces an address of the packet. */
function foreign(
  passage: PacketTrace | undefined,
  side: Rewrite["side"],
  table: string | undefined,
): Rewrite | undefined {
  return passage?.rewritten.find((each) => {
    return each.side === side && each.base !== undefined && each.base.split(" ")[1] !== table;
  });
}
