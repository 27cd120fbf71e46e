/** The arguments, options, help and examples of `forward`. */

import { object, or } from "@optique/core/constructs";
import { commandLine, optionName } from "@optique/core/message";
import { map, multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { logFormats, loggedConnections, logLevelNames } from "../../config/settings-log.ts";
import { examplesFooter } from "../examples.ts";
import { networkSourceValue } from "../network-lists.ts";
import { prose } from "../prose.ts";
import { servedAdminOption } from "./admin.ts";
import { captureFields } from "./capture.ts";
import { connectionFields, sessionFields } from "./clients.ts";
import { inGroup, usageLine } from "./groups.ts";
import { logFields, marksText } from "./log.ts";
import { userOption } from "./user.ts";
import {
  durationValue,
  fileValue,
  listenValue,
  listValue,
  markValue,
  numberValue,
  sourceValue,
  timeoutValue,
  udpTimeoutValue,
  upstreamValue,
  wordValue,
} from "./values.ts";
import { workersOption } from "./workers.ts";

/** The options of `routes` that `forward` does not set by itself. */
const { toPort, toAddress, proto, redirect, replyPath, backend, ...captureOptions } = captureFields;

/** The arguments and options of `forward`. */
export const forwardFields = object({
  command: constant("forward"),
  ...inGroup("Arguments", {
    addresses: multiple(
      argument(listenValue(), {
        description: prose`Where to listen: ${":80"} for every IPv4 address, ${"[::]:80"} for both
          families, ${":20000-20100"} for a range of ports.`,
      }),
      {
        min: 1,
        errors: { tooFew: prose`An address is missing: give [ADDR]:PORT, such as ${":80"}` },
      },
    ),
  }),
  ...inGroup("Data path", {
    path: optional(
      option("--path", wordValue("relay|kernel|auto", ["relay", "kernel", "auto"]), {
        description: prose`Who carries connections. ${"relay"} (the default): this process.
          ${"kernel"}: the kernel alone, by NAT, for less than half the CPU; it cannot read or write
          what is carried, and needs ${"--routes auto"}. ${"auto"}: the kernel where that is
          possible, and the log says why not.`,
      }),
    ),
    offload: optional(
      option("--offload", wordValue("auto|off", ["auto", "off"]), {
        description: prose`With ${"--path kernel"}: whether its connections take a flowtable where
          the kernel has one (${"auto"}, the default).`,
      }),
    ),
  }),
  ...inGroup("Listeners", {
    tcp: withDefault(
      flag("--tcp", { description: prose`Carry TCP connections (the default).` }),
      false,
    ),
    udp: withDefault(flag("--udp", { description: prose`Carry UDP datagrams.` }), false),
    noTransparent: withDefault(
      flag("--no-transparent", {
        description: prose`Accept connections to this host's own addresses only, without
          IP_TRANSPARENT.`,
      }),
      false,
    ),
    redirect: withDefault(
      flag("--redirect", {
        description: prose`Accept connections that NAT redirects here, for kernels without TPROXY.
          SO_ORIGINAL_DST gives their original destination; accepting them needs no privilege. With
          ${"--routes auto"} the rules redirect, too.`,
      }),
      false,
    ),
    clientFirst: withDefault(
      flag("--client-first", {
        description: prose`Accept a TCP connection when its client has sent something
          (TCP_DEFER_ACCEPT): a tenth less CPU for a short connection. Where the upstream speaks
          first, as with SSH or SMTP, each connection begins 3 s late.`,
      }),
      false,
    ),
  }),
  ...inGroup("Upstreams", {
    to: multiple(
      option("--to", upstreamValue(), {
        description: prose`An upstream. With several, ${"--balance"} chooses one, and the next is
          tried if it cannot be reached. Without a port, connections go to the port that the client
          asked for. ${"original"}: the address that the client asked for.`,
      }),
      { min: 1, errors: { tooFew: prose`--to is missing: give HOST:PORT or ${"original"}` } },
    ),
    balance: optional(
      option("--balance", wordValue("WAY", ["round-robin", "least-connections", "source-hash"]), {
        description: prose`How to choose among several upstreams: ${"round-robin"} (the default),
          ${"least-connections"}, or ${"source-hash"}, which sends a client always to the same
          one.`,
      }),
    ),
    source: optional(
      option("--source", sourceValue(), {
        description: prose`The source address that the upstream sees: ${"client"} (the default),
          ${"client:port"} with the client's port too, ${"self"}, or an address. With
          ${"--redirect"} the default is ${"self"}.`,
      }),
    ),
    sourceFallback: optional(
      option("--source-fallback", wordValue("self", ["self"]), {
        description: prose`Connect from an address of this host where the client's cannot be used
          (IPv6 to IPv4), instead of rejecting the connection.`,
      }),
    ),
    fastOpen: withDefault(
      flag("--fast-open", {
        description: prose`Send the client's first bytes with the SYN to an upstream that allows it
          (TCP_FASTOPEN_CONNECT): a round trip less, a tenth less CPU for a short connection. The
          network may deliver these bytes twice, and a connection that such an upstream refuses
          ends: no other one is tried.`,
      }),
      false,
    ),
    socketMark: optional(
      option("--socket-mark", markValue(), {
        description: prose`Mark connections to upstreams (SO_MARK), for your own ip rules.`,
      }),
    ),
  }),
  ...inGroup("PROXY protocol", {
    acceptProxy: multiple(
      or(
        map(
          flag("--accept-proxy", {
            description: prose`Expect a PROXY protocol header, version 1 or 2, which names the
              client. Over UDP it precedes every datagram, or the first one of a sender's socket.`,
          }),
          () => [],
        ),
        option("--accept-proxy", listValue(networkSourceValue()), {
          description: prose`The same (${"--accept-proxy=10.0.0.0/8"}), from these networks only.
            Connections from elsewhere are rejected, and datagrams dropped.`,
        }),
      ),
    ),
    headerTimeout: optional(
      option("--header-timeout", timeoutValue(), {
        description: prose`Wait this long for the header of ${"--accept-proxy"}; 5s by default,
          ${"0s"}: forever.`,
      }),
    ),
    sendProxy: optional(
      option("--send-proxy", wordValue("v1|v2|v2:every", ["v1", "v2", "v2:every"]), {
        description: prose`Send a PROXY header first on each connection to an upstream (${"v1"},
          ${"v2"}) and in each UDP session (${"v2"}). ${"v2:every"}: in front of each datagram.`,
      }),
    ),
  }),
  ...inGroup("Rules and routes", {
    routes: withDefault(
      option("--routes", wordValue("auto|print|none", ["auto", "print", "none"]), {
        description: prose`${"auto"}: install the rules that this command needs, and remove them
          when it ends, even if it is killed. ${"print"}: print the rules and exit. ${"none"} (the
          default): leave them to ${"tproxy routes"}. The rules capture every destination at the
          listeners' ports, unless the options below say otherwise; they are those of
          ${"tproxy routes"}.`,
      }),
      "none" as "auto" | "print" | "none",
    ),
    onExit: optional(
      option("--on-exit", wordValue("open|closed|keep", ["open", "closed", "keep"]), {
        description: prose`With ${"--path kernel"}: what happens when this command ends, however it
          does. ${"open"} (the default): the rules are removed. ${"closed"}: new connections are
          refused until the next start. ${"keep"}: the kernel carries connections on, and the next
          start adopts the rules; only ${"keep"} leaves them in force, until
          ${"tproxy routes --remove"}.`,
      }),
    ),
  }),
  ...captureOptions,
  ...inGroup("What to capture", {
    local: withDefault(
      flag("--local", {
        description: prose`Also capture what programs of this host send to other hosts. A mark
          exempts our own connections, unless you give another guard.`,
      }),
      false,
    ),
  }),
  ...connectionFields,
  ...sessionFields,
  ...inGroup("Timeouts", {
    connectTimeout: optional(
      option("--connect-timeout", timeoutValue(), {
        description: prose`Wait this long for a connection to an upstream; 10s by default.`,
      }),
    ),
    idleTimeout: optional(
      option("--idle-timeout", timeoutValue(), {
        description: prose`Close a connection after this long without data; 10m by default, ${"0s"}:
          never.`,
      }),
    ),
    halfClosedTimeout: optional(
      option("--half-closed-timeout", timeoutValue(), {
        description: prose`Close a half-closed connection after this long without data; 60s by
          default.`,
      }),
    ),
    udpTimeout: multiple(
      option("--udp-timeout", udpTimeoutValue(), {
        description: prose`End a UDP session after this long without datagrams; 60s by default.
          With a port, ${"53=5s"} (the default for 53): only sessions to that port that have had
          a reply.`,
      }),
    ),
    keepalive: optional(
      option("--keepalive", durationValue(), {
        description: prose`Probe a client or upstream that is silent for this long, and close its
          connection if three probes in the same time again get no reply (SO_KEEPALIVE).`,
      }),
    ),
    userTimeout: optional(
      option("--user-timeout", durationValue(), {
        description: prose`Close a connection whose client or upstream acknowledges nothing for this
          long (TCP_USER_TIMEOUT). By default the kernel waits about 15 minutes.`,
      }),
    ),
    drainTimeout: optional(
      option("--drain-timeout", durationValue(), {
        description: prose`After SIGTERM, let open connections go on for this long; 30s by
          default.`,
      }),
    ),
  }),
  ...inGroup("Process", {
    workers: workersOption,
    user: userOption,
    admin: servedAdminOption,
  }),
  ...inGroup("Output", {
    printConfig: withDefault(
      flag("--print-config", {
        description: prose`Print the configuration file that does the same, and exit.`,
      }),
      false,
    ),
    logLevel: optional(
      option("--log-level", wordValue("error|warning|info|debug", logLevelNames), {
        description: prose`What to log. ${"error"}: internal faults. ${"warning"}: also failures.
          ${"info"} (the default): also each connection when it ends. ${"debug"}: also when it is
          accepted and when its upstream is connected.`,
      }),
    ),
    quiet: withDefault(
      flag("-q", "--quiet", { description: prose`The same as ${"--log-level warning"}.` }),
      false,
    ),
    json: withDefault(
      flag("--json", { description: prose`Log as JSON, one object a line.` }),
      false,
    ),
    logFormat: optional(
      option("--log-format", wordValue("FORMAT", logFormats), {
        description: prose`${"auto"} (the default): text, with the priority of each line where
          systemd's journal reads it. ${"text"}, ${"json"}. ${"journal"}: send warnings and failures
          to the journal with their fields.`,
      }),
    ),
    logConnections: optional(
      option("--log-connections", wordValue("all|failed|none", loggedConnections), {
        description: prose`Log all connections and sessions (the default), those that failed, or
          none.`,
      }),
    ),
    logSample: optional(
      option("--log-sample", numberValue("N", 1, 1_000_000), {
        description: prose`Log one in N connections that went well; all that failed are logged.`,
      }),
    ),
    logFile: optional(
      option("--log-file", fileValue(), {
        description: prose`Write the lines of connections to a file. SIGUSR1 opens it again.`,
      }),
    ),
  }),
  ...logFields,
});

const examples: readonly (readonly [string, string])[] = [
  ["sudo tproxy forward :80 --to 192.0.2.10:80 --routes auto --in eth0", "with the rules for it"],
  ["sudo tproxy forward :50080 --to original", "on to where each client wanted to go"],
  ["sudo tproxy forward :80 --accept-proxy --to 127.0.0.1:8080", "behind a load balancer"],
  ["sudo tproxy forward :50053 --udp --to 192.0.2.53:53", "answers from the resolver asked"],
  ["tproxy forward --no-transparent :8080 --source self --to 127.0.0.1:80", "no privileges"],
];

/** The command `forward` for the argument parser. */
export const forwardCommand = command("forward", forwardFields, {
  usageLine: usageLine("[OPTIONS] --to HOST:PORT [ADDR]:PORT..."),
  brief: prose`Carry TCP and UDP to backends that see the client's own address.`,
  description: prose`Accepts connections to any address and relays each to an upstream, from the
    client's own address. ${optionName("--routes")} installs the rules that bring the clients'
    packets and the upstreams' replies here; ${commandLine("tproxy routes --help")} explains them.
    The first SIGTERM or SIGINT stops accepting and lets open connections end; a second one ends
    them at once. SIGUSR1 prints open connections and counters. UDP datagrams form sessions, which
    end after a silence. ${marksText}`,
  footer: examplesFooter(examples),
});

/** The options of `forward` once parsed. */
export type ForwardOptions = InferValue<typeof forwardFields>;
