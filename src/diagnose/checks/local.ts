/**
 * Capture of what programs of this host send: a route, a mark in the output hook, and from then on
 * the way of a packet that comes in by lo.
 */

import { errnoName } from "../../../ffi/errno.ts";
import { RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { formatMark } from "../../net/mark.ts";
import { freshState } from "../nft-evaluator/state.ts";
import {
  carried,
  doubtsOf,
  hasMark,
  type PacketTrace,
  passOut,
  passOutput,
  type Rank,
} from "../nft-evaluator/walk.ts";
import type { Packet } from "../packet.ts";
import { addressType } from "../policy.ts";
import type { HostSnapshot, RouteLookup } from "../snapshot/host.ts";
import {
  type Capture,
  deviceName,
  type PathQuestion,
  surroundingsOf,
} from "../snapshot/path-facts.ts";
import type { RuledChain } from "../snapshot/ruleset.ts";
import { type Finding, failure, ok, undecided, unknown, warning } from "./finding.ts";
import { doubtText, ruleText, subject } from "./firewall-words.ts";
import { letThrough } from "./repairs.ts";

/** The treatment of a packet of this host before it comes back in by lo. */
export interface LocalFacts {
  readonly destination: Address;
  readonly packet: Packet;
  readonly capture: Capture;
  /** The route that `connect` or `sendto` finds first, with no mark. */
  readonly first: RouteLookup;
  readonly passage: PacketTrace | undefined;
  /** POSTROUTING, once it has been routed to lo. */
  readonly out: PacketTrace | undefined;
  readonly chains: readonly RuledChain[];
}

/** A question about a packet that a program of this host sends. */
export type LocalQuestion = PathQuestion & {
  readonly capture: Capture;
  /** The program's. */
  readonly owner: { readonly uid: number; readonly gid: number };
};

/** Gathers them, and the question for the rest of the way, if there is one. */
export function gatherLocal(
  machine: HostSnapshot,
  question: LocalQuestion,
): { facts: LocalFacts; rest: PathQuestion | undefined } {
  const { capture, packet, owner } = question;
  const { destination } = packet;
  const { routes } = machine.policy[destination.family];
  const first = machine.lookUp({ destination: destination.bytes });
  const bytes = first.kind === "route" ? first.route.preferredSource : undefined;
  const source = bytes === undefined ? packet.source : { family: destination.family, bytes };
  const outgoing: Packet = {
    ...packet,
    source,
    iif: "",
    oif: deviceName(machine, first),
    owner,
    destinationType: addressType(routes, destination),
  };
  const around = first.kind === "error" ? undefined : surroundingsOf(machine, outgoing);
  const passage = around && passOutput(around, outgoing, freshState(), rankOf(capture));
  const out = around && passage && passOut(around, { ...outgoing, oif: "lo" }, carried(passage));
  const chains = machine.ruleset?.chains ?? [];
  const facts = { destination, packet: outgoing, capture, first, passage, out, chains };
  if (first.kind === "error") return { facts, rest: undefined };
  const mark = passage?.mark ?? capture.mark.value;
  const rest = { packet: { ...packet, source, iif: "lo" }, capture, mark };
  return { facts, rest: passage === undefined ? rest : { ...rest, connection: passage } };
}

/** Whether the packet leaves with the intended mark. */
function rankOf({ mark }: Capture): Rank {
  return (trace) => (trace.verdict === "drop" ? 0 : 1 + Number(hasMark(trace, mark)));
}

/** The findings, in the order of the way. */
export function judgeLocal(facts: LocalFacts): Finding[] {
  const { destination, first } = facts;
  const to = formatAddress(destination);
  if (first.kind === "error") {
    const text =
      `This host has no route to ${to}: connect fails with ${errnoName(first.errno)} before the ` +
      "output hook sees a packet. Local capture needs some route first.";
    return [failure("route", text, "ip route add default via GATEWAY dev IFACE")];
  }
  const kind =
    first.route.type === RTN_LOCAL ? "It is this host's own address" : "There is a route";
  const route = ok("route", `${kind}, so that a packet to ${to} is made at all.`);
  return [route, outputFinding(facts)];
}

function outputFinding({ capture, passage, out, packet, chains }: LocalFacts): Finding {
  if (passage === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return unknown("output", text, "sudo tproxy doctor …");
  }
  const wants = formatMark(capture.mark);
  const dropped = passage.dropped ?? out?.dropped;
  if (dropped !== undefined) {
    const text = `${subject(dropped)} drops it on the way out.`;
    return failure("output", text, letThrough(dropped, packet, chains));
  }
  if (!hasMark(passage, capture.mark)) {
    const text = `No rule of the output hook sets mark ${wants} on it.`;
    return failure("output", text, "tproxy routes --print --local …");
  }
  const doubts = [
    ...doubtsOf(passage, rankOf(capture)),
    ...(out === undefined ? [] : doubtsOf(out)),
  ];
  if (doubts.length > 0) {
    return undecided("output", doubtText(doubts, "Whether it is captured on the way out"));
  }
  const rewrite = out?.rewritten.at(-1);
  if (rewrite !== undefined) {
    const text =
      `On the way out it gets mark ${wants}, but rule ${ruleText(rewrite)} rewrites its ` +
      `${rewrite.side} (NAT): the listener is told another one.`;
    return warning("output", text, letThrough(rewrite, packet, chains));
  }
  return ok("output", `On the way out it gets mark ${wants} and is routed again.`);
}
