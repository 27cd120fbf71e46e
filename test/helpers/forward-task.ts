/** Tasks of `forward` on loopback, for tests of Workers without the command. */

import { AF_INET } from "../../ffi/constants.ts";
import * as limits from "../../src/engine/limits.ts";
import { bindSocket, listenOn, localName } from "../../src/engine/sockets.ts";
import { OutboundFlows } from "../../src/forward/outbound-flows.ts";
import { type ForwardTask, LogLevel, type ServedSocket } from "../../src/workers/protocol.ts";
import { fixedUpstreams, poolRules } from "./upstreams.ts";

const loopback = Uint8Array.of(127, 0, 0, 1);

/** A socket of one Worker, at a port that the kernel chooses. */
export function socketAt(protocol: "tcp" | "udp"): ServedSocket {
  const fd = bindSocket(
    { protocol, transparent: false },
    { address: loopback, port: 0, scopeId: 0 },
  );
  if (protocol === "tcp") listenOn(fd);
  return { fd, protocol, domain: AF_INET, address: loopback, port: localName(fd).port };
}

/** Where a task carries what it accepts: to this port of loopback. */
export function upstreamAt(port: number): ForwardTask["route"]["upstreams"] {
  return fixedUpstreams([{ address: loopback, port, scopeId: 0 }]);
}

/** One for these sockets, towards a port of loopback. */
export function forwardTask(sockets: readonly ServedSocket[], port: number): ForwardTask {
  const clients = { max: 0, counts: undefined, perSecond: 0, workers: 1, worker: 0 };
  const icmp = { perSecond: 0, burst: 0, perPeerMs: 0, perPeerMsV6: 0 };
  const sessions = { sessionsMax: 100, socketsMax: 200, clients, icmp, transparent: false };
  return {
    ...{ kind: "forward", name: "test", service: undefined, sockets },
    ingress: { redirected: false, acceptProxy: undefined },
    route: {
      ...{ upstreams: upstreamAt(port), pool: poolRules("round-robin"), source: { kind: "self" } },
      ...{ sourceFallback: false, ownAddresses: [], ownFlows: OutboundFlows.memory(() => 1) },
    },
    dial: { mark: undefined, sendProxy: undefined, fastOpen: false },
    limits: { connectionsMax: 100, queueMax: 100, clients, pipesMax: 4 },
    timeouts: {
      headerMs: limits.headerTimeoutMs,
      connectMs: limits.connectTimeoutMs,
      idleMs: limits.forwardIdleTimeoutMs,
      halfClosedMs: limits.halfClosedTimeoutMs,
      ...{ drainMs: 60_000, sessionIdleMs: 60_000, answeredSessions: [] },
      ...{ keepAliveMs: undefined, userMs: undefined },
    },
    sessions: sockets.some(({ protocol }) => protocol === "udp") ? sessions : undefined,
    log: { level: LogLevel.info, connections: "all", sample: 1 },
  };
}
