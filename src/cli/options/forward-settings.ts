/** The options of `forward` as settings, as a file with one service has them. */

import { resolve } from "node:path";
import type { Listen } from "../../config/listen.ts";
import { namelessService } from "../../config/pool.ts";
import { networksOf } from "../../config/request.ts";
import type { ServiceSettings, Settings, UdpTimeout } from "../../config/settings.ts";
import type { NetworkSource } from "../../config/syntax.ts";
import { UsageError } from "../../errors.ts";
import type { Scheme } from "../../net/target.ts";
import { captureSettingsOf, given, routesSettingsOf } from "./capture.ts";
import type { ForwardOptions } from "./forward.ts";

/** The settings of the options, without what was not given. @throws UsageError */
export function settingsOf(options: ForwardOptions): Settings {
  if (options.quiet && options.logLevel !== undefined) {
    throw new UsageError("--quiet and --log-level exclude each other: give one of them");
  }
  if (options.json && (options.logFormat ?? "json") !== "json") {
    throw new UsageError("--json and --log-format exclude each other: give one of them");
  }
  return given({
    workers: options.workers === 1 ? undefined : options.workers,
    "drain-timeout": options.drainTimeout,
    // A command that only prints rules does not change its user.
    user: options.routes === "print" ? undefined : options.user,
    "strict-limits": options.strictLimits || undefined,
    admin: tableOf({ socket: options.admin }),
    log: tableOf({
      level: options.logLevel ?? (options.quiet ? ("warning" as const) : undefined),
      format: options.logFormat ?? (options.json ? ("json" as const) : undefined),
      time: options.logTime,
      lossless: options.logLossless || undefined,
      connections: options.logConnections,
      sample: options.logSample,
      file: options.logFile && resolve(options.logFile),
    }),
    routes: tableOf({
      install: options.routes === "none" ? undefined : ("auto" as const),
      ...routesSettingsOf(options),
      "on-exit": options.onExit,
    }),
    service: [serviceOf(options)],
  });
}

function serviceOf(options: ForwardOptions): ServiceSettings {
  return given({
    name: namelessService,
    listen: listensOf(options),
    to: options.to,
    capture: tableOf(captureSettingsOf(options)),
    balance: options.balance,
    source: options.source,
    "source-fallback": options.sourceFallback,
    "socket-mark": options.socketMark,
    path: options.path,
    offload: options.offload,
    transparent: options.noTransparent ? false : undefined,
    redirect: options.redirect || undefined,
    "accept-proxy": sendersOf(options.acceptProxy),
    "client-first": options.clientFirst || undefined,
    "fast-open": options.fastOpen || undefined,
    "header-timeout": options.headerTimeout,
    "send-proxy": options.sendProxy,
    "max-connections": options.maxConnections,
    "max-connections-per-client": options.maxConnectionsPerClient || undefined,
    "connection-rate-per-client": options.connectionRatePerClient || undefined,
    "max-sessions": options.maxSessions,
    "max-sessions-per-client": options.maxSessionsPerClient || undefined,
    "session-rate-per-client": options.sessionRatePerClient || undefined,
    "connect-timeout": options.connectTimeout,
    "idle-timeout": options.idleTimeout,
    "half-closed-timeout": options.halfClosedTimeout,
    "udp-timeout": silencesOf(options.udpTimeout),
    keepalive: options.keepalive,
    "user-timeout": options.userTimeout,
  });
}

/** A table of settings; undefined if none is set, so that the table is left out. */
function tableOf<T extends object>(settings: T) {
  const table = given(settings);
  return Object.keys(table).length === 0 ? undefined : table;
}

/** Each address with its own scheme, or with each protocol that was asked for. */
function listensOf({ addresses, tcp, udp }: ForwardOptions): Listen[] {
  const protocols: Scheme[] = [];
  if (tcp || !udp) protocols.push("tcp");
  if (udp) protocols.push("udp");
  return addresses.flatMap(({ protocol: own, address, ports }) =>
    (own === undefined ? protocols : [own]).map((protocol) => ({ protocol, address, ports })),
  );
}

/** The senders whose PROXY headers count: nobody, everybody, or these networks. */
function sendersOf(
  lists: readonly (readonly NetworkSource[])[],
): true | readonly NetworkSource[] | undefined {
  if (lists.length === 0) return undefined;
  const named = lists.filter((list) => list.length > 0);
  if (named.length === 0) return true;
  if (named.length === lists.length) return named.flat();
  throw new UsageError(
    "--accept-proxy with networks and without exclude each other: give one of them",
  );
}

/** The last value of each port counts; the value for all ports comes first. */
function silencesOf(timeouts: readonly UdpTimeout[]): readonly UdpTimeout[] | undefined {
  const byPort = new Map(timeouts.map((each) => [each.port, each]));
  const sorted = [...byPort.values()].sort((a, b) => (a.port ?? 0) - (b.port ?? 0));
  return sorted.length === 0 ? undefined : sorted;
}

/** Replaces `@-` with the networks from standard input, since a file cannot have `@-`. */
export function withoutStdin(settings: Settings): Settings {
  const lists = (sources: readonly NetworkSource[]) =>
    sources.flatMap((source) => {
      const list = "file" in source && source.file === "-" ? networksOf([source]) : undefined;
      if (list === undefined) return [source];
      if (!list.ok) throw new UsageError(list.error);
      return list.value ?? [];
    });
  const [service = {}] = settings.service ?? [];
  const { capture = {}, "accept-proxy": senders } = service;
  const { dst, src, bypass } = capture;
  const networks = given({
    dst: dst && lists(dst),
    src: src && lists(src),
    bypass: bypass && lists(bypass),
  });
  const replaced: ServiceSettings = {
    ...service,
    ...(service.capture === undefined ? {} : { capture: { ...capture, ...networks } }),
    ...(typeof senders === "object" ? { "accept-proxy": lists(senders) } : {}),
  };
  return { ...settings, service: [replaced] };
}
