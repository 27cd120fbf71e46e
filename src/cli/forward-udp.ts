/** What `forward` does differently for UDP, as the main thread sees it. */

import { readSysctl } from "../diagnose/snapshot/proc.ts";
import * as limits from "../engine/limits.ts";
import { UsageError } from "../errors.ts";
import type { Scheme } from "../net/target.ts";
import type {
  ClientBounds,
  IcmpLimits,
  PortTimeout,
  SessionSettings,
} from "../workers/protocol.ts";
import type { WantedSocket } from "./open-socket.ts";
import type { ForwardOptions } from "./options/forward.ts";
import { checkParts } from "./options/workers.ts";
import { sessionPlacesOf } from "./strict-limits.ts";

const DNS_PORT = 53;

/** Each address with its own scheme, or with each protocol asked for. */
export function wantedSockets(options: ForwardOptions): WantedSocket[] {
  const protocols: Scheme[] = [];
  if (options.tcp || !options.udp) protocols.push("tcp");
  if (options.udp) protocols.push("udp");
  return options.addresses.flatMap(({ scheme, endpoint }) =>
    (scheme === undefined ? protocols : [scheme]).map((protocol) => ({ protocol, endpoint })),
  );
}

/** Whether sockets of a protocol are among them. */
export function carries(wanted: readonly WantedSocket[], protocol: Scheme): boolean {
  return wanted.some((socket) => socket.protocol === protocol);
}

/** @throws UsageError for options of a protocol that is not carried */
export function checkProtocols(options: ForwardOptions, wanted: readonly WantedSocket[]): void {
  for (const to of options.to) {
    if (to === "original" || to.scheme === undefined || !carries(wanted, other(to.scheme)))
      continue;
    throw new UsageError(
      `--to ${to.scheme}://… is for ${to.scheme} alone, and ${other(to.scheme)} is carried too: ` +
        "give --to HOST:PORT",
    );
  }
  const { headerTimeout, maxConnections, connectTimeout, idleTimeout, halfClosedTimeout } = options;
  if (!carries(wanted, "tcp")) {
    refuseOf("TCP", "--tcp", [
      maxConnections !== undefined && "--max-connections",
      options.maxConnectionsPerClient > 0 && "--max-connections-per-client",
      options.connectionRatePerClient > 0 && "--connection-rate-per-client",
      connectTimeout !== undefined && "--connect-timeout",
      headerTimeout !== undefined && "--header-timeout",
      idleTimeout !== undefined && "--idle-timeout",
      halfClosedTimeout !== undefined && "--half-closed-timeout",
      options.keepalive !== undefined && "--keepalive",
      options.userTimeout !== undefined && "--user-timeout",
    ]);
  }
  if (carries(wanted, "udp")) return checkUdp(options);
  refuseOf("UDP", "--udp", [
    options.maxSessions !== undefined && "--max-sessions",
    options.maxSessionsPerClient > 0 && "--max-sessions-per-client",
    options.sessionRatePerClient > 0 && "--session-rate-per-client",
    options.udpTimeout.length > 0 && "--udp-timeout",
    options.sendProxy === "v2:every" && "--send-proxy v2:every",
  ]);
}

/** @throws UsageError for the first option among `given`, which are of a protocol not carried */
function refuseOf(protocol: string, flag: string, given: readonly (string | false)[]): void {
  const name = given.find((each) => each !== false);
  if (name !== undefined) throw new UsageError(`${name} is of ${protocol}: give ${flag} with it`);
}

function checkUdp(options: ForwardOptions): void {
  const { maxSessions, workers, sendProxy } = options;
  if (sendProxy === "v1") {
    throw new UsageError("--send-proxy v1 knows TCP alone: give --send-proxy v2 with --udp");
  }
  if (options.redirect && options.to.includes("original")) {
    throw new UsageError(
      "--redirect changes where datagrams go, and does not tell: give --to HOST:PORT with --udp",
    );
  }
  checkParts("--max-sessions", maxSessions, workers);
}

function other(scheme: Scheme): Scheme {
  return scheme === "tcp" ? "udp" : "tcp";
}

/** The bounds of one Worker's sessions, of `descriptors` for all of them; `clients` are its own. */
export function sessionSettings(
  options: ForwardOptions,
  descriptors: number,
  clients: ClientBounds,
): SessionSettings {
  const { workers, udpTimeout } = options;
  const general = udpTimeout.findLast(({ port }) => port === undefined);
  const idleTimeoutMs = general?.ms ?? limits.sessionIdleTimeoutMs;
  const dnsTimeoutMs = Math.min(limits.dnsIdleTimeoutMs, idleTimeoutMs);
  const answered: PortTimeout[] = [{ port: DNS_PORT, timeoutMs: dnsTimeoutMs }];
  for (const { port, ms } of udpTimeout) {
    if (port !== undefined) answered.push({ port, timeoutMs: ms });
  }
  return {
    ...sessionPlacesOf(options, descriptors, clients.worker),
    clients,
    idleTimeoutMs,
    answeredTimeouts: answered,
    icmp: icmpLimits(workers),
    transparent: !options.noTransparent,
  };
}

/** Those of the kernel, of which each Worker has its part. */
function icmpLimits(workers: number): IcmpLimits {
  const { perSecond, burst, perPeerMs } = limits.icmpLimits;
  return {
    perSecond: (readSysctl("net.ipv4.icmp_msgs_per_sec") ?? perSecond) / workers,
    burst: Math.ceil((readSysctl("net.ipv4.icmp_msgs_burst") ?? burst) / workers),
    perPeerMs: readSysctl("net.ipv4.icmp_ratelimit") ?? perPeerMs,
    perPeerMsV6: readSysctl("net.ipv6.icmp.ratelimit") ?? perPeerMs,
  };
}
