/**
 * Why the kernel refused a socket, in one line with what would be accepted. Pure: the facts
 * of the machine are handed in.
 */

import {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  EAFNOSUPPORT,
  ECONNREFUSED,
  EHOSTUNREACH,
  EINVAL,
  ENETUNREACH,
  ENODEV,
  EPERM,
  ETIMEDOUT,
  type SyscallError,
} from "../../../ffi/errno.ts";
import { quote } from "../../net/result.ts";
import { type Capability, explainUnmet, lowPort } from "../checks/privileges.ts";
import type { Holder } from "../snapshot/port-holder.ts";

/** The facts of this host that explain a refusal. */
export interface Facts {
  readonly capabilities: ReadonlySet<string>;
  /** net.ipv4.ip_nonlocal_bind, or its namesake of net.ipv6. */
  readonly nonlocalBind: boolean;
  /** net.ipv4.ip_unprivileged_port_start. */
  readonly unprivilegedPortStart: number;
  /** Whether the address belongs to this host; undefined when that is not known. */
  readonly addressIsLocal: boolean | undefined;
  readonly interfaces: readonly string[];
  /** Whose socket has the port, where that was asked and is known. */
  readonly holder?: Holder | undefined;
}

/** The attempted call. */
export interface Attempt {
  /** `bind` or `connect`, with the endpoint it was about: `udp://8.8.8.8:8080`. */
  readonly what: string;
  /** The address alone, as text. */
  readonly address: string;
  readonly port: number;
  readonly isV6: boolean;
  readonly transparent: boolean;
  readonly freebind: boolean;
  readonly device: string | undefined;
  /** Where a connection was to go, if one was made. */
  readonly remote: string | undefined;
}

/** One line: what failed, the kernel's word for it, because of what, and what would do. */
export function explainRefusal(error: SyscallError, attempt: Attempt, facts: Facts): string {
  const reason = reasonOf(error, attempt, facts);
  const detail = reason === undefined ? error.message : reason;
  return `Cannot ${attempt.what}: ${detail}`;
}

function reasonOf(error: SyscallError, attempt: Attempt, facts: Facts): string | undefined {
  if (error.call === "setsockopt") return optionReason(error, attempt, facts);
  if (error.call === "bind" || error.call === "listen") return bindReason(error, attempt, facts);
  if (error.call === "connect" || error.call === "send" || error.call === "recv") {
    return connectReason(error, attempt);
  }
  if (error.errno === EAFNOSUPPORT) {
    return `${error.code}: this kernel has no ${attempt.isV6 ? "IPv6" : "IPv4"}`;
  }
  return undefined;
}

function optionReason(error: SyscallError, attempt: Attempt, facts: Facts): string | undefined {
  const option = error.detail;
  if (error.errno === ENODEV && option === "SO_BINDTODEVICE") {
    const names = facts.interfaces.join(", ");
    return `there is no interface ${quote(attempt.device ?? "")}: this host has ${names}`;
  }
  if (error.errno !== EPERM) return undefined;
  const anyOf: readonly Capability[] =
    option === "SO_BINDTODEVICE" ? ["CAP_NET_RAW"] : ["CAP_NET_ADMIN", "CAP_NET_RAW"];
  return explainUnmet([{ anyOf, action: attempt.what, subject: option }], {
    effective: facts.capabilities,
    ownsNetwork: false,
  });
}

function bindReason(error: SyscallError, attempt: Attempt, facts: Facts): string | undefined {
  const { address, port } = attempt;
  switch (error.errno as number) {
    case EADDRNOTAVAIL: {
      const owner =
        facts.addressIsLocal === false ? `${address} is not an address of this host` : undefined;
      const because = [
        owner ?? `the kernel does not take ${address} for an address of this host`,
        `net.${attempt.isV6 ? "ipv6" : "ipv4"}.ip_nonlocal_bind is ${Number(facts.nonlocalBind)}`,
        ...(attempt.transparent || attempt.freebind
          ? []
          : ["the socket has neither IP_TRANSPARENT nor IP_FREEBIND"]),
      ];
      return `EADDRNOTAVAIL (Cannot assign requested address) because ${sentence(because)}`;
    }
    case EADDRINUSE:
      return `EADDRINUSE: ${takenBy(attempt, facts.holder)}`;
    case EACCES:
      return `EACCES: ${explainUnmet([lowPort(attempt.what, facts.unprivilegedPortStart)], {
        effective: facts.capabilities,
        ownsNetwork: false,
      })}`;
    case EINVAL:
      return attempt.isV6 && address.toLowerCase().startsWith("fe80:")
        ? `EINVAL: the link-local address ${address} needs its interface: ` +
            `"[${address}%eth0]:${port}"`
        : undefined;
    default:
      return undefined;
  }
}

function takenBy({ port, what }: Attempt, holder: Holder | undefined): string {
  if (holder !== undefined)
    return `port ${port} is held here by ${holder.name} (pid ${holder.pid})`;
  const command = `ss -${what.includes("udp://") ? "u" : "t"}lnp sport = :${port}`;
  return `another socket holds port ${port} here: "${command}" shows which`;
}

function connectReason(error: SyscallError, attempt: Attempt): string | undefined {
  const remote = attempt.remote ?? "the target";
  switch (error.errno as number) {
    case ECONNREFUSED:
      return `ECONNREFUSED: nothing listens on ${remote}, or a firewall refuses it`;
    case ETIMEDOUT:
      return (
        `ETIMEDOUT: no answer from ${remote}; its replies go to ${attempt.address}, and must be ` +
        "routed back to this host to arrive"
      );
    case ENETUNREACH:
    case EHOSTUNREACH:
      return `${error.code}: no route from ${attempt.address} to ${remote}`;
    default:
      return undefined;
  }
}

function sentence(parts: readonly string[]): string {
  if (parts.length < 2) return parts.join("");
  return `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}
