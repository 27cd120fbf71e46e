/**
 * The conditions of bind(2) with this machine's values: __inet_bind() of net/ipv4/af_inet.c and
 * __inet6_bind() of net/ipv6/af_inet6.c, then inet_csk_get_port() and udp_lib_get_port(). Pure.
 */

import { AF_INET6 } from "../../../ffi/constants.ts";
import {
  RTN_ANYCAST,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_MULTICAST,
  RTN_UNICAST,
} from "../../../ffi/netlink/constants.ts";
import type { InetSocket } from "../../../ffi/netlink/diag.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { type Finding, failure, ok } from "../checks/finding.ts";
import { boundTo, isWildcard, waitingOn } from "../lookup.ts";
import type { Explanation } from "./explanation.ts";

export interface BindFacts {
  /** Undefined: every address. */
  readonly address: Address | undefined;
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  readonly transparent: boolean;
  readonly freebind: boolean;
  readonly capabilities: ReadonlySet<string>;
  /** net.ipv4.ip_nonlocal_bind, or its namesake of net.ipv6. */
  readonly nonlocalBind: boolean;
  /** net.ipv4.ip_unprivileged_port_start, for both families. */
  readonly unprivilegedPortStart: number;
  /** The result of inet_addr_type_table() for the address: RTN_*. */
  readonly addressType: number;
  /** IPv6: whether an interface has the address, as ipv6_chk_addr() asks. */
  readonly hasAddress: boolean;
  readonly sockets: readonly InetSocket[];
}

/** Walks the conditions until one refuses. */
export function explainBind(facts: BindFacts): Explanation {
  const steps: Finding[] = [];
  const v6 = facts.address?.family === 6;
  for (const step of v6 ? [option, port, address6, conflict] : [option, address4, port, conflict]) {
    const made = step(facts);
    if (made === undefined) continue;
    steps.push(made);
    if (made.severity === "failure") break;
  }
  const last = steps.at(-1);
  const what = `bind ${textOf(facts)}`;
  if (last?.severity === "failure") {
    const why = refusals[last.check]?.(facts) ?? last.text;
    return { steps, works: false, conclusion: `It will not work: ${what} fails with ${why}.` };
  }
  const because = reason(facts);
  return { steps, works: true, conclusion: `It will work: ${what} succeeds, because ${because}.` };
}

/** The errno of each step and because of what, for the last sentence. */
const refusals: Readonly<Record<string, (facts: BindFacts) => string>> = {
  option: () => "EPERM, because IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW",
  address: ({ address, protocol }) => {
    const text = address === undefined ? "*" : formatAddress(address);
    const [first = 0, second = 0] = address?.bytes ?? [];
    const isV6 = address?.family === 6;
    if (isV6 && first === 0xff && protocol === "tcp") return `EINVAL, because ${text} is multicast`;
    if (isV6 && first === 0xfe && (second & 0xc0) === 0x80 && address?.zone === undefined) {
      return `EINVAL, because ${text} is link-local and names no interface`;
    }
    return (
      `EADDRNOTAVAIL, because ${text} is not this host's, and neither ip_nonlocal_bind nor ` +
      "freebind nor transparent is set"
    );
  },
  port: (facts) => `EACCES, because port ${facts.port} needs CAP_NET_BIND_SERVICE`,
  conflict: (facts) => `EADDRINUSE, because another socket holds port ${facts.port}`,
};

const typeNames = new Map([
  [RTN_UNICAST, "RTN_UNICAST"],
  [RTN_LOCAL, "RTN_LOCAL"],
  [RTN_BROADCAST, "RTN_BROADCAST"],
  [RTN_ANYCAST, "RTN_ANYCAST"],
  [RTN_MULTICAST, "RTN_MULTICAST"],
]);

/** setsockopt(IP_TRANSPARENT) comes before bind. */
function option({ transparent, capabilities }: BindFacts): Finding | undefined {
  if (!transparent) return undefined;
  const held = ["CAP_NET_ADMIN", "CAP_NET_RAW"].find((name) => capabilities.has(name));
  if (held !== undefined) return ok("option", `IP_TRANSPARENT is allowed: ${held}.`);
  const text =
    "IP_TRANSPARENT is refused with EPERM: it needs CAP_NET_ADMIN or CAP_NET_RAW, and this " +
    "process has neither.";
  return failure("option", text, "sudo tproxy …");
}

function address4(facts: BindFacts): Finding {
  const { address, nonlocalBind, freebind, transparent, addressType: type } = facts;
  if (address === undefined) return ok("address", "addr == INADDR_ANY: nothing to check.");
  const text = formatAddress(address);
  const kind = typeNames.get(type) ?? String(type);
  const values =
    `inet_addr_type_table(${text}) = ${kind}; ip_nonlocal_bind = ${Number(nonlocalBind)}, ` +
    `freebind = ${Number(freebind)}, transparent = ${Number(transparent)}`;
  const isOwn = [RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST].includes(type);
  if (isOwn || nonlocalBind || freebind || transparent) return ok("address", `${values}.`);
  const why = `${values}: none of them allows a foreign address, EADDRNOTAVAIL.`;
  return failure("address", why, "set IP_TRANSPARENT: tproxy bind does");
}

function address6(facts: BindFacts): Finding {
  const { address, nonlocalBind, freebind, transparent, protocol, hasAddress } = facts;
  if (address === undefined) return ok("address", "IPV6_ADDR_ANY: nothing to check.");
  const text = formatAddress(address);
  const [first = 0, second = 0] = address.bytes;
  if (first === 0xff) {
    return protocol === "tcp"
      ? failure("address", `${text} is multicast, which a stream socket may not have: EINVAL.`)
      : ok("address", `${text} is multicast: nothing to check.`);
  }
  if (first === 0xfe && (second & 0xc0) === 0x80 && address.zone === undefined) {
    const why = `${text} is link-local and no interface is named: EINVAL.`;
    return failure("address", why, `name the interface: ${text}%eth0`);
  }
  if (address.bytes.every((byte) => byte === 0)) return ok("address", "IPV6_ADDR_ANY.");
  const values =
    `ipv6_chk_addr(${text}) = ${Number(hasAddress)}; ipv6_can_nonlocal_bind(): ` +
    `ip_nonlocal_bind = ${Number(nonlocalBind)}, freebind = ${Number(freebind)}, ` +
    `transparent = ${Number(transparent)}`;
  if (hasAddress || nonlocalBind || freebind || transparent) return ok("address", `${values}.`);
  const why = `${values}: no interface has the address and nothing allows another, EADDRNOTAVAIL.`;
  return failure("address", why, "set IPV6_TRANSPARENT: tproxy bind does");
}

function port({ port: number, unprivilegedPortStart, capabilities }: BindFacts): Finding {
  const start = `ip_unprivileged_port_start = ${unprivilegedPortStart}`;
  if (number === 0) return ok("port", "Port 0: the kernel chooses one.");
  if (number >= unprivilegedPortStart) return ok("port", `${start}: ${number} is free to all.`);
  if (capabilities.has("CAP_NET_BIND_SERVICE")) {
    return ok("port", `${start}, and this process has CAP_NET_BIND_SERVICE.`);
  }
  const text = `${start}, so port ${number} needs CAP_NET_BIND_SERVICE: EACCES.`;
  return failure("port", text, "sudo tproxy …");
}

function conflict({ address, port: number, protocol, sockets }: BindFacts): Finding {
  const holder = waitingOn(sockets, protocol, number).find((socket) => {
    const isV6 = address?.family === 6;
    const sameFamily = (socket.family === AF_INET6) === isV6;
    const isDual = socket.family === AF_INET6 && socket.v6only === false && isWildcard(socket);
    if (!sameFamily && !isDual) return false;
    if (address === undefined || isWildcard(socket)) return true;
    return Buffer.compare(socket.local, address.bytes) === 0;
  });
  if (holder === undefined || number === 0) {
    return ok("conflict", `No socket holds ${protocol} port ${number} on that address.`);
  }
  const text = `A socket on ${boundTo(holder)} (inode ${holder.inode}) holds it: EADDRINUSE.`;
  return failure("conflict", text, `ss -${protocol[0]}lnp "sport = :${number}"`);
}

function reason({ address, addressType: type, hasAddress, ...facts }: BindFacts): string {
  if (address === undefined || address.bytes.every((byte) => byte === 0)) {
    return "every address of this host is meant";
  }
  const text = formatAddress(address);
  if (address.family === 4 ? type === RTN_LOCAL : hasAddress) return `${text} is this host's`;
  if (address.family === 4 && type !== RTN_UNICAST) return `${text} is ${typeNames.get(type)}`;
  if (address.bytes[0] === 0xff) return `${text} is multicast`;
  const not = `${text} is not this host's, but`;
  if (facts.transparent) return `${not} the socket has IP_TRANSPARENT`;
  if (!facts.freebind) return `${not} ip_nonlocal_bind is 1`;
  return `${not} the socket has IP_FREEBIND (which lets it bind, but not send from there)`;
}

function textOf({ address, port: number, protocol }: BindFacts): string {
  const host = address === undefined ? "*" : formatAddress(address);
  return `${protocol}://${address?.family === 6 ? `[${host}]` : host}:${number}`;
}
