/**
 * Capture of what programs of this host send: a route, a mark in the output hook, and from then on
 * the way of a packet that comes in by lo.
 */

import { errnoName } from "../../ffi/errno.ts";
import { NF_INET_LOCAL_OUT, RTN_LOCAL } from "../../ffi/netlink/constants.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { formatMark } from "../net/mark.ts";
import { type Finding, failure, fine, unknown } from "./finding.ts";
import { type Passage, passFirewall } from "./firewall.ts";
import type { Machine, RouteLookup } from "./machine.ts";
import type { Capture, PathQuestion } from "./path-facts.ts";
import { addressType } from "./policy.ts";

/** What happens to a packet of this host before it comes back in by lo. */
export interface LocalFacts {
  readonly destination: Address;
  readonly capture: Capture;
  /** The route that `connect` or `sendto` finds first, with no mark. */
  readonly first: RouteLookup;
  readonly passage: Passage | undefined;
}

/** Gathers them, and the question for the rest of the way, if there is one. */
export function gatherLocal(
  machine: Machine,
  question: PathQuestion & { readonly capture: Capture },
): { facts: LocalFacts; rest: PathQuestion | undefined } {
  const { capture, packet } = question;
  const { destination } = packet;
  const { routes } = machine.policy[destination.family];
  const first = machine.lookUp({ destination: destination.bytes });
  const outgoing = {
    ...packet,
    iif: "",
    destinationType: addressType(routes, destination),
  };
  const passage =
    machine.ruleset && passFirewall(machine.ruleset, outgoing, NF_INET_LOCAL_OUT, () => false);
  const facts = { destination, capture, first, passage };
  if (first.kind === "error") return { facts, rest: undefined };
  const bytes = first.route.preferredSource;
  const source = bytes === undefined ? packet.source : { family: destination.family, bytes };
  const mark = passage?.mark ?? capture.mark.value;
  return { facts, rest: { packet: { ...packet, source, iif: "lo" }, capture, mark } };
}

/** The findings, in the order of the way. */
export function judgeLocal({ destination, capture, first, passage }: LocalFacts): Finding[] {
  const to = formatAddress(destination);
  if (first.kind === "error") {
    const text =
      `This host has no route to ${to}: connect fails with ${errnoName(first.errno)} before the ` +
      "output hook sees a packet. Local capture needs some route first.";
    return [failure("route", text, "ip route add default via GATEWAY dev IFACE")];
  }
  const kind =
    first.route.type === RTN_LOCAL ? "It is this host's own address" : "There is a route";
  const route = fine("route", `${kind}, so that a packet to ${to} is made at all.`);
  if (passage === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return [route, unknown("output", text, "sudo tproxy doctor …")];
  }
  const wants = formatMark(capture.mark);
  const { value, mask } = capture.mark;
  if (passage.dropped !== undefined) {
    return [route, failure("output", `Rule ${passage.dropped.rule} drops it on the way out.`)];
  }
  if ((passage.mark & mask) >>> 0 === value) {
    return [route, fine("output", `On the way out it gets mark ${wants} and is routed again.`)];
  }
  const [maybe] = passage.unknown;
  if (maybe !== undefined) {
    const text = `Whether rule ${maybe.rule} matches on the way out cannot be told from here.`;
    return [route, unknown("output", text)];
  }
  const text = `No rule of the output hook sets mark ${wants} on it.`;
  return [route, failure("output", text, "tproxy routes --print --local …")];
}
