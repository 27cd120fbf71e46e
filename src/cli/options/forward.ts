/** What `forward` takes: its arguments, help and examples. */

import { object, or } from "@optique/core/constructs";
import { commandLine, optionName } from "@optique/core/message";
import { map, multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { examplesFooter } from "../examples.ts";
import { networkSourceValue } from "../network-lists.ts";
import { prose } from "../prose.ts";
import { captureFields } from "./capture.ts";
import { connectionFields, sessionFields } from "./clients.ts";
import { inGroup, usageLine } from "./groups.ts";
import { logFields, marksText } from "./log.ts";
import { userOption } from "./user.ts";
import {
  durationValue,
  listValue,
  markValue,
  schemedEndpointValue,
  sourceValue,
  timeoutValue,
  udpTimeoutValue,
  upstreamValue,
  wordValue,
} from "./values.ts";
import { workersOption } from "./workers.ts";

/** The options of `routes`, without those that the listeners and --source answer. */
const { toPort, toAddress, proto, redirect, replyPath, backend, ...captureOptions } = captureFields;

const logLevels = ["error", "warning", "info", "debug"] as const;

const fields = object({
  command: constant("forward"),
  ...inGroup("Arguments", {
    addresses: multiple(
      argument(schemedEndpointValue({ portZero: true }), {
        description: prose`Where to accept: ${":80"} for every IPv4 address, ${"[::]:80"} for both
        families.`,
      }),
      {
        min: 1,
        errors: { tooFew: prose`An address is missing: give [ADDR]:PORT, such as ${":80"}` },
      },
    ),
  }),
  ...inGroup("Listeners", {
    tcp: withDefault(
      flag("--tcp", { description: prose`Carry TCP connections: the default.` }),
      false,
    ),
    udp: withDefault(flag("--udp", { description: prose`Carry UDP datagrams.` }), false),
    noTransparent: withDefault(
      flag("--no-transparent", {
        description: prose`Accept at own addresses only, without IP_TRANSPARENT.`,
      }),
      false,
    ),
    redirect: withDefault(
      flag("--redirect", {
        description: prose`Connections come by NAT, as kernels without TPROXY have to do it:
        SO_ORIGINAL_DST tells where they were going, and no privilege is needed to accept them.
        With ${"--routes auto"} the rules are of that kind, too.`,
      }),
      false,
    ),
  }),
  ...inGroup("Upstreams", {
    to: multiple(
      option("--to", upstreamValue(), {
        description: prose`Carry connections there; several take turns, and when one cannot be
        reached the next is tried. ${"original"}: to the address that the client asked for.`,
      }),
      { min: 1, errors: { tooFew: prose`--to is missing: give HOST:PORT or ${"original"}` } },
    ),
    balance: optional(
      option("--balance", wordValue("WAY", ["round-robin", "least-connections", "source-hash"]), {
        description: prose`Which of several upstreams a connection gets: each in turn
          (${"round-robin"}, the default), the one with the fewest, or always the same for a
          client's address.`,
      }),
    ),
    source: optional(
      option("--source", sourceValue(), {
        description: prose`Whose address the upstream sees: ${"client"} (the default), with
        ${"client:port"} also the port, ${"self"}, or an address. With ${"--redirect"} it is
        ${"self"} by default.`,
      }),
    ),
    sourceFallback: optional(
      option("--source-fallback", wordValue("self", ["self"]), {
        description: prose`Connect from an own address where the client's cannot be used (IPv6 to
        IPv4), instead of refusing.`,
      }),
    ),
    socketMark: optional(
      option("--socket-mark", markValue(), {
        description: prose`Mark the connections to upstreams (SO_MARK), for ip rules of your own.`,
      }),
    ),
  }),
  ...inGroup("PROXY protocol", {
    acceptProxy: multiple(
      or(
        map(
          flag("--accept-proxy", {
            description: prose`Expect the PROXY protocol, version 1 or 2: it says who the client is.
            With UDP it is in front of every datagram, or of the first one of a sender's socket.`,
          }),
          () => [],
        ),
        option("--accept-proxy", listValue(networkSourceValue()), {
          description: prose`The same (${"--accept-proxy=10.0.0.0/8"}), from these networks only;
          others are refused, and what datagrams they send is dropped.`,
        }),
      ),
    ),
    headerTimeout: optional(
      option("--header-timeout", timeoutValue(), {
        description: prose`How long the header of ${"--accept-proxy"} may take; 5s by default,
        ${"0s"}: for ever.`,
      }),
    ),
    sendProxy: optional(
      option("--send-proxy", wordValue("v1|v2|v2:every", ["v1", "v2", "v2:every"]), {
        description: prose`Begin each connection to an upstream with the PROXY protocol, and with
        ${"v2"} each session of UDP; ${"v2:every"}: each of its datagrams.`,
      }),
    ),
  }),
  ...inGroup("Rules and routes", {
    routes: withDefault(
      option("--routes", wordValue("auto|print|none", ["auto", "print", "none"]), {
        description: prose`${"auto"}: put in the rules that this command needs, and take them out at
        its end, however it ends; ${"print"}: print them, and do nothing else; ${"none"}, the
        default, leaves them to ${"tproxy routes"}. What is captured: any destination at the port
        of the listeners, unless the options below, which are those of ${"tproxy routes"}, say
        otherwise.`,
      }),
      "none" as "auto" | "print" | "none",
    ),
  }),
  ...captureOptions,
  ...inGroup("What to capture", {
    local: withDefault(
      flag("--local", {
        description: prose`Also capture what programs of this host send to other hosts. Our own
        connections have a mark by which they are left alone, unless another guard is given.`,
      }),
      false,
    ),
  }),
  ...connectionFields,
  ...sessionFields,
  ...inGroup("Timeouts", {
    connectTimeout: optional(
      option("--connect-timeout", timeoutValue(), {
        description: prose`How long connecting may take; 10s by default.`,
      }),
    ),
    idleTimeout: optional(
      option("--idle-timeout", timeoutValue(), {
        description: prose`Close what carries nothing for so long; 10m by default, ${"0s"}:
        never.`,
      }),
    ),
    halfClosedTimeout: optional(
      option("--half-closed-timeout", timeoutValue(), {
        description: prose`The same for a connection whose one side has ended; 60s by default.`,
      }),
    ),
    udpTimeout: multiple(
      option("--udp-timeout", udpTimeoutValue(), {
        description: prose`End a UDP session that is silent for so long, 60s by default. With a
          port, ${"53=5s"} (the default for 53): one to that port that has been answered.`,
      }),
    ),
    keepalive: optional(
      option("--keepalive", durationValue(), {
        description: prose`Probe a peer, of either side, that is silent for so long, and end its
        connection when it does not answer three times in as long again (SO_KEEPALIVE).`,
      }),
    ),
    userTimeout: optional(
      option("--user-timeout", durationValue(), {
        description: prose`End a connection, of either side, whose peer acknowledges nothing for so
        long (TCP_USER_TIMEOUT). By default the kernel waits some 15 minutes.`,
      }),
    ),
    drainTimeout: optional(
      option("--drain-timeout", durationValue(), {
        description: prose`After SIGTERM, how long open connections may go on; 30s by default.`,
      }),
    ),
  }),
  ...inGroup("Process", {
    workers: workersOption,
    user: userOption,
  }),
  ...inGroup("Output", {
    printConfig: withDefault(
      flag("--print-config", {
        description: prose`Print the configuration file that does the same, and do nothing else.`,
      }),
      false,
    ),
    logLevel: optional(
      option("--log-level", wordValue("error|warning|info|debug", logLevels), {
        description: prose`What is logged: ${"error"}, faults of our own; ${"warning"}, also what
        fails; ${"info"} (the default), also every connection at its end; ${"debug"}, also when it
        is accepted and its upstream is reached.`,
      }),
    ),
    quiet: withDefault(
      flag("-q", "--quiet", { description: prose`The same as ${"--log-level warning"}.` }),
      false,
    ),
    json: withDefault(
      flag("--json", { description: prose`The log as JSON, an object a line.` }),
      false,
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
export const forwardCommand = command("forward", fields, {
  usageLine: usageLine("[OPTIONS] --to HOST:PORT [ADDR]:PORT..."),
  brief: prose`Carry TCP and UDP to backends that see the client's own address.`,
  description: prose`Accepts connections to any address and relays each to an upstream, connected
    from the client's address. What brings the connections here, and the replies of the upstreams,
    ${optionName("--routes")} puts in, or ${commandLine("tproxy routes --help")}. SIGTERM and
    SIGINT stop accepting and let open connections end; a second one ends at once. SIGUSR1 prints
    what is open and the counters. UDP is carried as sessions, which end when they are silent.
    ${marksText}`,
  footer: examplesFooter(examples),
});

/** The options of `forward` once parsed. */
export type ForwardOptions = InferValue<typeof fields>;
