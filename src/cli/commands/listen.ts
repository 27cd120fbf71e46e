/** `tproxy listen`: accepts what is meant for any address and shows both ends' real ones. */

import { object } from "@optique/core/constructs";
import { commandLine } from "@optique/core/message";
import { map, multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import type { Listener } from "../../config/service.ts";
import { raiseDescriptorLimit } from "../../control/descriptors.ts";
import { openForWorkers, served } from "../../control/listeners.ts";
import { socketNeeds } from "../../control/needs.ts";
import { clientBounds, connectionPlaces, lowered, partOf } from "../../control/places.ts";
import { checkPrivileges } from "../../control/privileges.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { InputError, readInput } from "../../control/read-input.ts";
import { listenRunning } from "../../control/reduce-privileges.ts";
import { serve } from "../../control/supervisor.ts";
import { checkThreads, workerCount } from "../../control/threads.ts";
import * as limits from "../../engine/limits.ts";
import { servedStatus, UsageError } from "../../errors.ts";
import { Log } from "../../log/log.ts";
import { quote } from "../../net/result.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import type { Scheme } from "../../net/target.ts";
import type { ClientBounds, Responding, RespondTask } from "../../workers/protocol.ts";
import { examplesFooter } from "../examples.ts";
import { connectionFields } from "../options/clients.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { logFields, marksText } from "../options/log.ts";
import { userOption, wantedUser } from "../options/user.ts";
import { fileValue, numberValue, schemedEndpointValue, timeoutValue } from "../options/values.ts";
import { checkParts, workersOption } from "../options/workers.ts";
import { prose } from "../prose.ts";
import { checkLowered } from "../strict-limits.ts";

const fields = object({
  command: constant("listen"),
  ...inGroup("Arguments", {
    addresses: multiple(
      argument(schemedEndpointValue({ portZero: true }), {
        description: prose`Where to listen: ${"8.8.8.8:80"}, ${"[2001:db8::9]:80"}, ${":80"} for
          every IPv4 address, ${"[::]:80"} for both families, port 0 for a free one.`,
      }),
      {
        min: 1,
        errors: { tooFew: prose`An address is missing: give [ADDR]:PORT, such as ${":80"}` },
      },
    ),
  }),
  ...inGroup("Listeners", {
    tcp: withDefault(
      flag("--tcp", { description: prose`Accept TCP connections (the default).` }),
      false,
    ),
    udp: withDefault(
      flag("--udp", {
        description: prose`Receive UDP datagrams, and reply from the address they were sent to.`,
      }),
      false,
    ),
    noTransparent: withDefault(
      flag("--no-transparent", {
        description: prose`Accept connections to this host's own addresses only, without
          IP_TRANSPARENT. No privilege is needed.`,
      }),
      false,
    ),
  }),
  ...inGroup("Answers", {
    reply: optional(
      option("--reply", string({ metavar: "TEXT" }), {
        description: prose`Reply with this line instead of ${"hello world"}.`,
      }),
    ),
    replyFile: optional(
      option("--reply-file", fileValue(), {
        description: prose`Reply with the bytes of a file.`,
      }),
    ),
    echo: withDefault(flag("--echo", { description: prose`Send everything back.` }), false),
    discard: withDefault(
      flag("--discard", { description: prose`Read everything and send nothing.` }),
      false,
    ),
    amplify: withDefault(
      flag("--amplify", {
        description: prose`Reply to a datagram with more bytes than it had. Forged source addresses
          can then turn this listener against others.`,
      }),
      false,
    ),
    answerRate: withDefault(
      option("--answer-rate", numberValue("N", 0, 0xffffffff), {
        description: prose`Send one client (an IPv4 address, or the /64 of an IPv6 address) at most
          N datagrams a second; 5000 by default, ${"0"}: any number.`,
      }),
      limits.answersPerSecond,
    ),
  }),
  ...inGroup("Limits", {
    max: withDefault(
      option("--max", numberValue("N", 1, 0xffffffff), {
        description: prose`End after N connections and datagrams.`,
      }),
      0,
    ),
    timeout: withDefault(
      option("--timeout", timeoutValue(), {
        description: prose`Close a connection after this long without data; 60s by default, ${"0s"}:
          never.`,
      }),
      limits.idleTimeoutMs,
    ),
  }),
  ...connectionFields,
  ...inGroup("Process", {
    workers: map(workersOption, workerCount),
    user: userOption,
  }),
  ...inGroup("Output", {
    quiet: withDefault(
      flag("-q", "--quiet", { description: prose`Do not show connections and their data.` }),
      false,
    ),
    json: withDefault(flag("--json", { description: prose`Print one JSON object a line.` }), false),
  }),
  ...logFields,
});

const examples: readonly (readonly [string, string])[] = [
  ["sudo tproxy listen :80", "every IPv4 address, TCP"],
  ["sudo tproxy listen --tcp --udp '[::]:53'", "both families, both protocols"],
  ["sudo tproxy listen --echo --quiet :7 8.8.8.8:8080", "several addresses, an echo server"],
  ["tproxy listen --no-transparent 127.0.0.1:8080", "without privileges"],
];

/** The command `listen` for the argument parser. */
export const listenCommand = command("listen", fields, {
  usageLine: usageLine("[OPTIONS] [ADDR]:PORT..."),
  brief: prose`Accept connections to any address and see both ends' real addresses.`,
  description: prose`Binds with IP_TRANSPARENT, prints who connects and which address they asked
    for, replies, and closes. ${commandLine("tproxy routes --print")} prints the rules that bring
    packets for other hosts here. SIGINT and SIGTERM end it with status 0. ${marksText}`,
  footer: examplesFooter(examples),
});

export type ListenOptions = InferValue<typeof fields>;

/** Runs `listen` until it is stopped; the exit status. @throws UsageError, CommandError */
export async function runListen(options: ListenOptions, io: ProcessIo): Promise<number> {
  const answer = await answerOf(options);
  const wanted = wantedSockets(options);
  if (options.amplify && !hasUdp(wanted)) throw new UsageError("--amplify needs --udp");
  if (options.max > 0 && options.workers > 1) {
    throw new UsageError("--max excludes --workers: it counts in one worker");
  }
  checkThreads(options.workers);
  const user = wantedUser(options.user, false);
  checkParts("--max-connections", options.maxConnections, options.workers);
  const lacks = checkPrivileges(socketNeeds(wanted, !options.noTransparent));
  const descriptors = raiseDescriptorLimit();
  const { workers, maxConnections, maxConnectionsPerClient, connectionRatePerClient } = options;
  // One descriptor for a connection, where those that are forwarded have two.
  const placesOf = (worker: number) =>
    connectionPlaces((2 * descriptors) / workers, partOf(maxConnections, workers, worker));
  const of = (worker: number) => placesOf(worker).connectionsMax;
  const bounds = lowered("max-connections", maxConnections, workers, of);
  lacks.push(...checkLowered(options.strictLimits, bounds));
  const sets = openForWorkers(options.workers, wanted, {
    hasSessions: false,
    user,
    transparent: !options.noTransparent,
  });
  const protocol = wanted[0]?.protocol ?? "tcp";
  const { json, logTime: time, logLossless: lossless } = options;
  const log = new Log(io, { protocol, format: json ? "json" : "auto", time, lossless });
  for (const { protocol, local } of sets[0] ?? []) {
    const address = formatSocketAddress(local);
    const fields = { event: "bound", protocol, address, transparent: !options.noTransparent };
    log.note(`[+] Bound to ${protocol}://${address}`, fields);
  }
  if (hasUdp(wanted) && answer.kind !== "discard") {
    const { text, fields } = answersLine(options, answer);
    log.note(text, fields);
  }
  for (const text of lacks) log.warn(text);
  const clients = clientBounds(maxConnectionsPerClient, connectionRatePerClient, workers);
  const tasks = sets.map(
    (sockets, worker): RespondTask => ({
      kind: "respond",
      sockets: sockets.map(served),
      answer,
      answers: {
        amplifies: options.amplify,
        perSecond: options.answerRate === 0 ? 0 : Math.max(1, options.answerRate / options.workers),
      },
      max: options.max,
      idleTimeoutMs: options.timeout,
      ...placesOf(worker),
      clients: clients[worker] as ClientBounds,
      report: !options.quiet,
    }),
  );
  const { stoppedBy } = await serve(io, tasks, log, {
    shared: { listeners: sets.flat(), joined: (text) => log.warn(text) },
    remaining: {
      needs: listenRunning(
        wanted.map((each) => each.protocol),
        !options.noTransparent,
      ),
      user,
    },
  });
  return servedStatus(stoppedBy);
}

function hasUdp(wanted: readonly Listener[]): boolean {
  return wanted.some(({ protocol }) => protocol === "udp");
}

/** What is answered of datagrams, and what is not. */
function answersLine({ amplify, answerRate }: ListenOptions, answer: Responding) {
  const size = answer.kind === "reply" ? answer.bytes.length : 0;
  const isFree = amplify || size <= limits.answerBytesFree;
  const which = isFree ? "Datagrams" : `Datagrams of ${size} bytes or more (--amplify: all)`;
  const rate = answerRate === 0 ? "" : `, at most ${answerRate} a second of one client`;
  return {
    text: `    ${which} are answered${rate}`,
    fields: { event: "answers", amplify, answer_bytes: size, answer_rate: answerRate },
  };
}

/** Each address with its own scheme, or with each protocol asked for. */
function wantedSockets(options: ListenOptions): Listener[] {
  const protocols: Scheme[] = [];
  if (options.tcp || !options.udp) protocols.push("tcp");
  if (options.udp) protocols.push("udp");
  return options.addresses.flatMap(({ scheme, endpoint }) =>
    (scheme === undefined ? protocols : [scheme]).map((protocol) => ({ protocol, endpoint })),
  );
}

async function answerOf(options: ListenOptions): Promise<Responding> {
  const { reply, replyFile, echo, discard } = options;
  const given = [
    reply !== undefined && "--reply",
    replyFile !== undefined && "--reply-file",
    echo && "--echo",
    discard && "--discard",
  ].filter((name) => name !== false);
  if (given.length > 1)
    throw new UsageError(`${given.join(" and ")} exclude each other: give one of them`);
  if (echo) return { kind: "echo" };
  if (discard) return { kind: "discard" };
  if (replyFile !== undefined) return { kind: "reply", bytes: await readReply(replyFile) };
  return { kind: "reply", bytes: new TextEncoder().encode(`${reply ?? "hello world"}\n`) };
}

async function readReply(path: string): Promise<Uint8Array> {
  try {
    return await readInput(path, limits.replyBytesMax);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new UsageError(`--reply-file ${quote(path)} cannot be read: ${error.message}`);
  }
}
