/**
 * All settings of a configuration file, by the names of the command line's options. A table here is
 * the source of the types, of the reader, of the JSON Schema and of what is written.
 */

import * as v from "valibot";
import { parseInterfacePattern } from "../net/interface.ts";
import { formatMark, parseMark } from "../net/mark.ts";
import { formatPortRange, parsePort, parsePortRange } from "../net/port.ts";
import { ok } from "../net/result.ts";
import {
  type Given,
  integer,
  isTable,
  type Kind,
  list,
  orBoolean,
  partOfValue,
  pathItem,
  required,
  scalarText,
  setting,
  table,
  text,
  type Written,
  word,
  yesNo,
} from "./kinds.ts";
import { formatListen, parseListen } from "./listen.ts";
import { admin } from "./settings-admin.ts";
import { level, log } from "./settings-log.ts";
import { metrics } from "./settings-metrics.ts";
import { pool, poolDefaults } from "./settings-pool.ts";
import {
  balance,
  count,
  duration,
  durationPattern,
  listMax,
  name,
  plain,
  tablesMax,
  timeout,
  upstreams,
} from "./settings-values.ts";
import {
  identitySyntax,
  networkSyntax,
  positiveDurationSyntax,
  socketMarkSyntax,
  sourceSyntax,
  wordSyntax,
  workersSyntax,
} from "./syntax.ts";

/** The newest version of the format. */
export const formatVersion = 1;

const networks = list(
  text(networkSyntax, { examples: ["10.0.0.0/8", "2001:db8::/32", "@networks.txt"] }),
  listMax,
);
const identities = list(
  text(identitySyntax, { examples: ["www-data", "33"], integers: true }),
  listMax,
);
const mark = { parse: parseMark, format: formatMark };
const markPattern = /^(0x[0-9a-fA-F]{1,8}|[0-9]{1,10})(\/(0x[0-9a-fA-F]{1,8}|[0-9]{1,10}))?$/;
const maskedMark = text(mark, { examples: ["0x1/0x1"], pattern: markPattern, integers: true });
const socketMark = text(socketMarkSyntax, { examples: ["0x10"], integers: true });

const family = text(wordSyntax(["4", "6", "both"]), {
  examples: ["4", "both"],
  pattern: /^(4|6|both)$/,
  integers: true,
});

/** How long a UDP session may be silent. */
export interface UdpTimeout {
  /** Undefined: of every port. */
  readonly port: number | undefined;
  readonly ms: number;
}

const silence = text(positiveDurationSyntax, { examples: ["60s"], pattern: durationPattern });

/** `"60s"` for every port, or a table of ports with `default` for all others. */
const udpTimeouts: Kind<readonly UdpTimeout[]> = {
  wire: v.union([
    silence.wire,
    v.record(v.pipe(v.string(), v.regex(/^(default|[1-9][0-9]{0,4})$/)), silence.wire),
  ]),
  parsed: v.pipe(
    v.unknown(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const { value } = dataset;
      const given = isTable(value) ? value : { default: value };
      const timeouts: UdpTimeout[] = [];
      const isWhole = given !== value;
      for (const [key, each] of Object.entries(given)) {
        const path: [v.IssuePathItem] | undefined = isWhole
          ? undefined
          : [{ ...pathItem(given, key), value: partOfValue }];
        const port = key === "default" ? ok(undefined) : parsePort(key);
        const ms = positiveDurationSyntax.parse(scalarText(each) ?? "");
        if (port.ok && ms.ok) timeouts.push({ port: port.value, ms: ms.value });
        else addIssue({ message: messageOf(port.ok ? ms : port), ...(path ? { path } : {}) });
      }
      if (timeouts.length < Object.keys(given).length) return NEVER;
      return timeouts.sort((a, b) => (a.port ?? 0) - (b.port ?? 0));
    }),
  ),
  write: (timeouts) => {
    const written: Record<string, Written> = {};
    for (const { port, ms } of timeouts) written[port ?? "default"] = silence.write(ms);
    const [only, another] = Object.keys(written);
    return only === "default" && another === undefined ? (written.default as Written) : written;
  },
};

function messageOf(result: { readonly ok: boolean; readonly error?: string }): string {
  return result.error ?? "";
}

/** What a service captures, where rules are installed. */
const capture = table({
  dst: setting(networks, "Capture packets to these addresses or networks."),
  src: setting(networks, "Capture packets from these addresses or networks only."),
  dport: setting(
    list(
      text(
        { parse: parsePortRange, format: formatPortRange },
        { examples: ["443", "8000-9000"], integers: true },
      ),
      listMax,
    ),
    "Capture packets to these ports only.",
  ),
  in: setting(
    list(
      text({ parse: parseInterfacePattern, format: String }, { examples: ["eth0", "eth*"] }),
      listMax,
    ),
    "Capture packets that arrive on these interfaces only.",
  ),
  family: setting(family, "Capture these IP versions."),
  local: setting(yesNo, "Also capture what programs of this host send to other hosts."),
  bypass: setting(networks, "Leave packets to these addresses or networks alone."),
  "bypass-private": setting(yesNo, "Leave packets to private and reserved networks alone."),
  "guard-mark": setting(maskedMark, "With local: leave sockets with this mark alone."),
  "guard-uid": setting(identities, "With local: leave the sockets of these users alone."),
  "guard-gid": setting(identities, "With local: leave the sockets of these groups alone."),
  "guard-cgroup": setting(
    list(text(plain, { examples: ["system.slice/tproxy.service"] }), listMax),
    "With local: leave the sockets of these control groups alone.",
  ),
});

/** What a service has that may stand in [defaults] as well. */
const shared = {
  path: setting(
    word("relay", "kernel", "auto"),
    "Who carries connections: the relay, the kernel by NAT, or the kernel where it can.",
  ),
  offload: setting(
    word("auto", "off"),
    "With the kernel path: whether its connections take a flowtable where the kernel has one.",
  ),
  balance: setting(balance, "Which of several upstreams a connection gets."),
  source: setting(
    text(sourceSyntax, { examples: ["client", "client:port", "self", "192.0.2.7"] }),
    "Whose address the upstream sees.",
  ),
  "source-fallback": setting(
    word("self"),
    "Connect from an own address where the client's cannot be used.",
  ),
  "socket-mark": setting(socketMark, "Mark the connections to upstreams (SO_MARK)."),
  transparent: setting(yesNo, "Accept connections to addresses of other hosts (IP_TRANSPARENT)."),
  redirect: setting(yesNo, "Connections come by NAT, as kernels without TPROXY have to do it."),
  "accept-proxy": setting(
    orBoolean(networks),
    "Expect the PROXY protocol: from these networks, or with true from everybody.",
  ),
  "client-first": setting(
    yesNo,
    "Accept TCP connections when the client's first bytes are there (TCP_DEFER_ACCEPT).",
  ),
  "fast-open": setting(
    yesNo,
    "Send the client's first bytes with the SYN to the upstream (TCP_FASTOPEN_CONNECT).",
  ),
  "header-timeout": setting(timeout, "How long the PROXY header may take; 0s: for ever."),
  "send-proxy": setting(
    word("v1", "v2", "v2:every"),
    "Begin each connection to an upstream with the PROXY protocol.",
  ),
  "max-connections": setting(count, "TCP connections at once; the next ones wait."),
  "max-connections-per-client": setting(count, "TCP connections of one client at once."),
  "connection-rate-per-client": setting(count, "New TCP connections of one client in a second."),
  "max-sessions": setting(count, "UDP sessions at once."),
  "max-sessions-per-client": setting(count, "UDP sessions of one client at once."),
  "session-rate-per-client": setting(count, "New UDP sessions of one client in a second."),
  "connect-timeout": setting(timeout, "How long connecting may take; 0s: for ever."),
  "idle-timeout": setting(timeout, "Close what carries nothing for so long; 0s: never."),
  "half-closed-timeout": setting(
    timeout,
    "Close a connection of which one side has ended after so long without data; 0s: never.",
  ),
  "udp-timeout": setting(
    udpTimeouts,
    "End a UDP session that is silent for so long; a table has it by port.",
  ),
  keepalive: setting(duration, "Probe a peer that is silent for so long (SO_KEEPALIVE)."),
  "user-timeout": setting(
    duration,
    "End a connection whose peer acknowledges nothing for so long (TCP_USER_TIMEOUT).",
  ),
  "log-level": setting(level, "What is logged of this service, in place of [log] level."),
};

const { "log-level": _, ...ofServices } = shared;
const defaultable = { ...ofServices, ...poolDefaults };

const service = table({
  name: required(name, "The name of the service, which no other one has."),
  listen: required(
    list(
      text(
        { parse: parseListen, format: formatListen },
        { examples: [":50080", "[::]:50080", "udp://:53", ":20000-20100"] },
      ),
      listMax,
    ),
    "Where to accept; TCP unless udp:// is in front.",
  ),
  pool: setting(name, "The [[pool]] of upstreams that connections are carried to."),
  to: setting(
    upstreams,
    "The upstreams, in place of a pool: HOST:PORT, HOST for the port asked for, or original.",
  ),
  capture: setting(capture, "What is captured for this service; needs [routes] install."),
  enabled: setting(yesNo, "Whether the service is served; true unless it is set to false."),
  ...shared,
});

// Which names are accepted is looked at with the rest of what is captured.
const tableName = text(plain, { examples: ["tproxyd"], pattern: /^tproxyd[A-Za-z0-9_-]{0,13}$/ });

const routes = table({
  install: setting(word("auto", "none"), "auto: put in the rules that the services need."),
  mark: setting(maskedMark, "The mark of captured packets."),
  table: setting(integer(1, 0xffffffff), "The routing table for marked packets."),
  priority: setting(integer(1, 32765), "The priority of the ip rule."),
  "table-name": setting(tableName, "The name of the firewall table."),
  sysctl: setting(yesNo, "Set the kernel settings that packets and replies need."),
  "on-exit": setting(
    word("open", "closed", "keep"),
    "What happens to services that the kernel carries when the process ends, however it does.",
  ),
});

/** The whole file. */
export const configurationKind = table({
  version: setting(integer(1, 1_000_000), "The version of this format; 1 if it is missing."),
  workers: setting(
    text(workersSyntax, { examples: ["auto", "4"], integers: true }),
    "Threads that share the traffic; auto: one on each core.",
  ),
  "drain-timeout": setting(duration, "After SIGTERM, how long open connections may go on."),
  user: setting(text(plain, { examples: ["tproxy"] }), "Go on as this user once all is set up."),
  "strict-limits": setting(yesNo, "Do not start where the limit on descriptors is too low."),
  include: setting(
    list(text(plain, { examples: ["conf.d/*.toml"] }), listMax),
    "Files with more services and pools, relative to this one.",
  ),
  admin: setting(admin, "The admin socket."),
  log: setting(log, "The log."),
  metrics: setting(metrics, "A listener for metrics: reading only."),
  routes: setting(routes, "The rules of all services together."),
  defaults: setting(table(defaultable), "Defaults of all services, and of all pools."),
  pool: setting(list(pool, tablesMax), "Pools of upstreams."),
  service: setting(list(service, tablesMax), "Services."),
});

/** What may stand in a file that another one includes. */
export const includedKind = table({
  pool: setting(list(pool, tablesMax), "Pools of upstreams."),
  service: setting(list(service, tablesMax), "Services."),
});

type GivenBy<K> = K extends Kind<infer T> ? T : never;

/** What somebody has set, on the command line or in a file; the rest are defaults. */
export type Settings = GivenBy<typeof configurationKind>;
export type ServiceSettings = GivenBy<typeof service>;
export type PoolSettings = GivenBy<typeof pool>;
export type CaptureSettings = GivenBy<typeof capture>;
export type RoutesSettings = GivenBy<typeof routes>;
export type DefaultSettings = Given<typeof defaultable>;
