/**
 * Why the kernel does not believe a packet's source, when its tables would deliver it: the
 * conditions of fib_validate_source() of net/ipv4/fib_frontend.c. Pure.
 */

import { errnoName } from "../../../ffi/errno.ts";
import { RTN_UNICAST } from "../../../ffi/netlink/constants.ts";
import { formatAddress, formatBytes } from "../../net/address.ts";
import type { PathFacts } from "../snapshot/path-facts.ts";
import { type Finding, failure } from "./finding.ts";

/** The finding for a packet that a local route would deliver, and the kernel drops. */
export function validationFinding(facts: PathFacts): Finding {
  const { packet, settings, back, names, marked } = facts;
  const { iif } = packet;
  const from = formatAddress(packet.source);
  const set = (name: string, value: number) =>
    `sysctl -w net.ipv4.conf.${dotted(iif)}.${name}=${value}`;
  const looped = [
    ["from", packet.source],
    ["to", packet.destination],
  ] as const;
  for (const [way, { family, bytes }] of looped) {
    if (family !== 4 || bytes[0] !== 127 || settings.routeLocalnet !== false) continue;
    const what = `A packet ${way} ${formatBytes(bytes)}`;
    const text = `${what} may not come in by ${iif}: route_localnet is 0.`;
    return failure("source", text, set("route_localnet", 1));
  }
  if (facts.isSourceLocal && settings.acceptLocal === false) {
    const text = `${from} is this host's own address, and accept_local is 0 on ${iif}: a martian.`;
    return failure("source", text, set("accept_local", 1));
  }
  if (settings.srcValidMark && facts.isSourceLocalByMark && settings.acceptLocal === false) {
    const text =
      "src_valid_mark is 1: the source is checked with the mark, so the local route takes " +
      `${from} for this host's own, and every captured packet by ${iif} is dropped in silence.`;
    return failure("source", text, set("accept_local", 1));
  }
  if (Object.values(settings).includes(undefined)) {
    const why = marked.kind === "error" ? ` (${errnoName(marked.errno)})` : "";
    const text =
      `The kernel refuses ${from} by ${iif}${why}. Its settings cannot be read here; it is ` +
      "src_valid_mark, rp_filter, accept_local or route_localnet.";
    return failure("source", text, `sysctl net.ipv4.conf.all net.ipv4.conf.${dotted(iif)}`);
  }
  if (settings.rpFilter === 0) {
    const why = marked.kind === "error" ? errnoName(marked.errno) : "no reason given";
    return failure("source", `The kernel refuses ${from} by ${iif}: ${why}.`);
  }
  if (back.kind === "error" || back.route.type !== RTN_UNICAST) {
    const text =
      `rp_filter is ${settings.rpFilter} on ${iif}, and there is no route back to ${from}: ` +
      "the packet is dropped.";
    return failure("source", text, `ip route add ${from} dev ${iif}`);
  }
  const other = names.get(back.route.oif ?? 0) ?? "?";
  const text =
    `rp_filter is ${settings.rpFilter} (strict) on ${iif}, but the route back to ${from} goes by ` +
    `${other}: the packet is dropped.`;
  return failure("source", text, set("rp_filter", 2));
}

/** sysctl(8) writes the dots of an interface's name as slashes. */
function dotted(iif: string): string {
  return iif.replaceAll(".", "/");
}
