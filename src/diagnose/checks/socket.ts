/** Which socket takes the packet, and whether it can answer. Pure. */

import { RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { formatAddress, formatBytes } from "../../net/address.ts";
import { boundTo, endpointText, findSocket, waitingOn } from "../lookup.ts";
import type { PathFacts } from "../snapshot/path-facts.ts";
import { type Finding, failure, ok, unknown } from "./finding.ts";
import { ruleText } from "./firewall-words.ts";

/** The listener that the look-up finds. */
export function checkSocket(facts: PathFacts): Finding {
  const { wanted, sockets, packet, passage, capture, names } = facts;
  const { protocol, port } = wanted;
  const waiting = waitingOn(sockets, protocol, port);
  const [first] = waiting;
  const verb = protocol === "tcp" ? "listens" : "waits";
  const endpoint = endpointText(wanted.address, port);
  const loss =
    passage?.missed === undefined ? "" : `, so rule ${ruleText(passage.missed)} gives up`;
  const start = protocol === "udp" ? `tproxy listen --udp :${port}` : `tproxy listen :${port}`;
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
      ? `bind it to 0.0.0.0:${port}, or name its address in the rule (iptables: ` +
        `-j TPROXY --on-ip ${own}; nft: tproxy to ${boundTo(first)})`
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
  return ok("listener", `A socket ${with_}${verb} on ${boundTo(found)}, where it is looked up.`);
}
