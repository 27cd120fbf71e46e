/** Checks of the firewall on a packet's way in: PREROUTING and INPUT. Pure. */

import { formatAddress } from "../../net/address.ts";
import { formatMark, fullMask } from "../../net/mark.ts";
import { endpointText } from "../lookup.ts";
import type { Touch } from "../nft-evaluator/hooks.ts";
import { doubtsOf, hasMark, type PacketTrace } from "../nft-evaluator/walk.ts";
import { isLocal, type PathFacts } from "../snapshot/path-facts.ts";
import { type Finding, failure, ok, undecided, unknown } from "./finding.ts";
import { doubtText, inspect, limitText, ruleText, subject } from "./firewall-words.ts";
import { letThrough } from "./repairs.ts";

/** The command that proves what rules leave open. */
const probe = "tproxy doctor --probe DST:PORT";

/** PREROUTING: it is let through, marked, and handed over as it was meant to be. */
export function checkFirewall(facts: PathFacts): Finding {
  const { passage } = facts;
  if (passage === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return unknown("firewall", text, "sudo tproxy doctor …");
  }
  const { dropped, missed } = passage;
  if (dropped !== undefined && dropped.rule !== missed?.rule) {
    return failure("firewall", `${subject(dropped)} drops it.`, repairOf(dropped, facts));
  }
  const wrong = facts.capture === undefined ? undefined : missedCapture(facts, passage);
  if (wrong !== undefined) return wrong;
  const doubts = doubtsOf(passage, facts.rank);
  if (doubts.length > 0) {
    return undecided("firewall", doubtText(doubts, "The path of the packet"), probe);
  }
  const rewrite = passage.rewritten.find(({ side }) => side === "destination");
  if (rewrite !== undefined) return rewrittenFinding(facts, rewrite);
  return ok("firewall", `${captureText(facts, passage)}${limitText(passage.limited)}`);
}

/** Finds a mark, or a port of TPROXY, that differs from the intended one. */
function missedCapture(facts: PathFacts, passage: PacketTrace): Finding | undefined {
  const { capture } = facts;
  if (capture === undefined) return undefined;
  const ours = passage.marking.find(({ mark }) => {
    return (mark & capture.mark.mask) >>> 0 === capture.mark.value;
  });
  const wants = formatMark(capture.mark);
  if (!hasMark(passage, capture.mark)) {
    const last = passage.marking.at(-1);
    if (ours !== undefined && last !== undefined) {
      const text =
        `Rule ${ruleText(ours)} sets mark ${wants} on it, but rule ${ruleText(last)} comes ` +
        `after it and leaves 0x${last.mark.toString(16)}.`;
      return failure("firewall", text, inspect(last));
    }
    if (passage.missed !== undefined) {
      return ok("firewall", `Rule ${ruleText(passage.missed)} matches it.`);
    }
    const text = `No firewall rule sets mark ${wants} on ${describePacket(facts)}.`;
    return uncaptured(facts) ?? failure("firewall", text, "tproxy routes --print");
  }
  const target = passage.tproxy ?? passage.missed;
  if (capture.toPort === undefined || target?.port === capture.toPort) return undefined;
  const by = ours === undefined ? "" : `Rule ${ruleText(ours)} sets mark ${wants} on it`;
  const other = target === undefined ? "no rule" : `rule ${ruleText(target)}`;
  const where = target === undefined ? "anywhere" : `to port ${target.port}`;
  const text = `${by}, but ${other} hands it ${where} instead of to port ${capture.toPort}.`;
  return failure("firewall", text, "tproxy routes --print");
}

/** Describes the treatment of a packet that passed. */
function captureText(facts: PathFacts, passage: PacketTrace): string {
  const { capture } = facts;
  const { missed, marking, tproxy, mark } = passage;
  if (capture === undefined) {
    if (marking.length === 0) {
      if (missed !== undefined) return `Rule ${ruleText(missed)} hands it over.`;
      return `No firewall rule marks a packet of ${describePacket(facts)}.`;
    }
    const by = marking.map(ruleText).join(", then ");
    return `Rule ${by} gives it the mark ${formatMark({ value: mark as never, mask: fullMask })}.`;
  }
  const ours = marking.find((each) => {
    return (each.mark & capture.mark.mask) >>> 0 === capture.mark.value;
  });
  const wants = formatMark(capture.mark);
  const by =
    ours === undefined ? `It has mark ${wants}` : `Rule ${ruleText(ours)} sets mark ${wants} on it`;
  return (tproxy ?? missed) === undefined ? `${by}.` : `${by} and hands it over by TPROXY.`;
}

function rewrittenFinding({ packet, chains }: PathFacts, rewrite: Touch): Finding {
  const to = endpointText(packet.destination.bytes, packet.port);
  const text =
    `Rule ${ruleText(rewrite)} rewrites its destination (NAT): no listener takes it as one to ` +
    `${to}.`;
  return failure("firewall", text, letThrough(rewrite, packet, chains));
}

/** Not captured as far as can be seen, but not all can be seen. */
export function uncaptured({ passage, rank, legacyTables }: PathFacts): Finding | undefined {
  const doubts = passage === undefined ? [] : doubtsOf(passage, rank);
  if (doubts.length > 0) {
    return undecided("firewall", doubtText(doubts, "Whether it is captured"), probe);
  }
  if (!legacyTables.includes("mangle")) return undefined;
  const text = "There are rules of iptables-legacy, which cannot be read.";
  return unknown("firewall", text, probe);
}

/** INPUT: it is let in, with the mark it was meant to have. */
export function checkInput(facts: PathFacts): Finding | undefined {
  const { input } = facts;
  if (input === undefined) return undefined;
  if (input.dropped !== undefined) {
    const text = `${subject(input.dropped)} drops it on its way to the socket.`;
    return failure("input", text, repairOf(input.dropped, facts));
  }
  const doubts = doubtsOf(input);
  if (doubts.length > 0) {
    return undecided("input", doubtText(doubts, "Whether it is let in"), probe);
  }
  return ok("input", `INPUT lets it in.${limitText(input.limited)}`);
}

/** Checks the later packets, since the first one's passing is not enough; none if all pass. */
export function checkLater(facts: PathFacts): Finding | undefined {
  const { later, passage, input, capture, unmarked, rank } = facts;
  if (later === undefined || passage === undefined || input === undefined) return undefined;
  if (passage.verdict === "drop" || input.verdict === "drop") return undefined;
  const dropped = later.passage.dropped ?? later.input.dropped;
  if (dropped !== undefined) {
    const text = `${subject(dropped)} drops the later packets of the connection.`;
    return failure("later packets", text, repairOf(dropped, facts));
  }
  const wanted = capture?.mark ?? { value: passage.mark as never, mask: fullMask };
  const wasCaptured = hasMark(passage, wanted) && !isLocal(unmarked);
  if (wasCaptured && !hasMark(later.passage, wanted)) {
    const text =
      `The first packet gets mark ${formatMark(wanted)} and the later ones do not: they are not ` +
      "delivered here.";
    const by = passage.marking.at(-1);
    return failure("later packets", text, by && inspect(by));
  }
  const firsts = [...doubtsOf(passage, rank), ...doubtsOf(input)].map(({ rule }) => rule);
  const doubts = [...doubtsOf(later.passage, rank), ...doubtsOf(later.input)];
  const own = doubts.filter(({ rule }) => !firsts.includes(rule));
  if (own.length === 0) return undefined;
  const what = "The path of later packets of the connection";
  return undecided("later packets", doubtText(own, what), probe);
}

/** The repair for a packet that a rule drops. */
export function repairOf(touch: Touch, facts: PathFacts): string | undefined {
  const { capture, packet, chains } = facts;
  if (!touch.isReversePath || capture === undefined) return letThrough(touch, packet, chains);
  const v6 = packet.destination.family === 6 ? "-6 " : "";
  const { mark, table, priority = 100 } = capture;
  // With the interface, the look-up of the source's way back is not for this rule.
  return (
    `ip ${v6}rule del priority ${priority} && ip ${v6}rule add iif ${packet.iif} ` +
    `fwmark ${formatMark(mark)} lookup ${table} priority ${priority}`
  );
}

/** A packet in words: `tcp from 192.0.2.2 by eth0 to 8.8.8.8:80`. */
function describePacket({ packet }: PathFacts): string {
  const { protocol, source, iif, destination, port } = packet;
  const to = endpointText(destination.bytes, port);
  return `${protocol} from ${formatAddress(source)} by ${iif} to ${to}`;
}
