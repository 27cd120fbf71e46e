/** `tproxy bind`: holds an address that need not be this host's, and sends from it. */

import { object } from "@optique/core/constructs";
import { commandLine } from "@optique/core/message";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import { ECONNREFUSED, EPIPE } from "../../../ffi/errno.ts";
import { bindAddress, resolveTarget } from "../../control/endpoints.ts";
import {
  type OpenSocket,
  openSocket,
  type Purpose,
  refusal,
  served,
} from "../../control/listeners.ts";
import { checkPrivileges, portStart } from "../../control/privileges.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { nothing } from "../../control/reduce-privileges.ts";
import { respondTask } from "../../control/respond-task.ts";
import { failure, serve } from "../../control/supervisor.ts";
import { checkThreads } from "../../control/threads.ts";
import { bindNeeds } from "../../diagnose/checks/privileges.ts";
import { isLocalAddress } from "../../diagnose/snapshot/refusal-facts.ts";
import * as limits from "../../engine/limits.ts";
import type { SocketOptions } from "../../engine/sockets.ts";
import { CommandError, cutOffStatus, exitStatus, servedStatus, UsageError } from "../../errors.ts";
import { Log } from "../../log/log.ts";
import { JsonTranscript, jsonLine, TextTranscript } from "../../log/transcript.ts";
import { type Address, formatAddress, formatBytes } from "../../net/address.ts";
import { quote } from "../../net/result.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { formatTarget, type Scheme, type Target } from "../../net/target.ts";
import type { Task, WorkerEvent } from "../../workers/protocol.ts";
import { examplesFooter } from "../examples.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { logFields, marksText } from "../options/log.ts";
import {
  durationValue,
  interfaceValue,
  markValue,
  schemedEndpointValue,
  targetValue,
} from "../options/values.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("bind"),
  ...inGroup("Arguments", {
    address: argument(schemedEndpointValue({ portZero: true }), {
      description: prose`The address to bind: ${"8.8.8.8:8080"}, ${"[2001:db8::9]:8080"},
        ${":8080"}, port 0 for a free one.`,
    }),
  }),
  ...inGroup("Socket", {
    tcp: withDefault(flag("--tcp", { description: prose`A TCP socket.` }), false),
    udp: withDefault(flag("--udp", { description: prose`A UDP socket (the default).` }), false),
    device: optional(
      option("--device", interfaceValue(), {
        description: prose`Use this interface only (SO_BINDTODEVICE).`,
      }),
    ),
    mark: optional(
      option("--mark", markValue(), {
        description: prose`Mark outgoing packets (SO_MARK), for ip rules.`,
      }),
    ),
    freebind: withDefault(flag("--freebind", { description: prose`Also set IP_FREEBIND.` }), false),
    noTransparent: withDefault(
      flag("--no-transparent", {
        description: prose`Do not set IP_TRANSPARENT, to see the kernel's error.`,
      }),
      false,
    ),
  }),
  ...inGroup("Sending", {
    to: optional(
      option("--to", targetValue(), {
        description: prose`Send to this target. UDP: each line of standard input is one datagram,
          and replies are printed. TCP: connect standard input and output.`,
      }),
    ),
    send: optional(
      option("--send", string({ metavar: "TEXT" }), {
        description: prose`Send this one datagram instead of standard input.`,
      }),
    ),
    timeout: optional(
      option("--timeout", durationValue(), {
        description: prose`UDP: wait this long for another reply, 1s by default. TCP: wait this long
          for the connection (10s by default), and for data. Without --to: hold the address for this
          long.`,
      }),
    ),
  }),
  ...inGroup("Output", {
    json: withDefault(flag("--json", { description: prose`Print one JSON object a line.` }), false),
  }),
  ...logFields,
});

const examples: readonly (readonly [string, string])[] = [
  ["sudo tproxy bind 8.8.8.8:8080", "hold an address, print what arrives"],
  ["sudo tproxy bind 8.8.8.8:8080 --to 192.0.2.1:53 --send hi", "one datagram from it"],
  ["sudo tproxy bind --tcp 192.0.2.7:0 --to 192.0.2.1:80", "a TCP connection from it"],
  ["tproxy bind 8.8.8.8:8080 --no-transparent", "what the kernel says without the option"],
];

/** The command `bind` for the argument parser. */
export const bindCommand = command("bind", fields, {
  usageLine: usageLine("[OPTIONS] [ADDR]:PORT [--to HOST:PORT]"),
  brief: prose`Bind to an address that this host does not own, and send from it.`,
  description: prose`Opens a socket with IP_TRANSPARENT, binds it, and prints its address. Replies
    to a foreign address reach this socket only if ip rules and routes bring them here: see
    ${commandLine("tproxy routes --print")}. ${marksText}`,
  footer: examplesFooter(examples),
});

export type BindOptions = InferValue<typeof fields>;

/** A socket sends to addresses of its own family. @throws UsageError */
function checkFamilies(own: Address | undefined, to: Target): void {
  if (own === undefined || typeof to.host === "string" || to.host.family === own.family) return;
  throw new UsageError(
    `--to ${quote(formatTarget(to))} is IPv${to.host.family} and ${quote(formatAddress(own))} is ` +
      `IPv${own.family}: give two addresses of one family`,
  );
}

/** Runs `bind` to its end; the exit status. @throws UsageError, CommandError */
export async function runBind(options: BindOptions, io: ProcessIo): Promise<number> {
  const protocol = protocolOf(options);
  if (options.send !== undefined && options.to === undefined) {
    throw new UsageError("--send needs --to HOST:PORT");
  }
  if (options.send !== undefined && protocol === "tcp") {
    throw new UsageError("--send excludes --tcp, which sends standard input");
  }
  const payload = options.send === undefined ? undefined : new TextEncoder().encode(options.send);
  if (payload !== undefined && payload.length > limits.datagramPayloadMax) {
    throw new UsageError(
      `--send has ${payload.length} bytes: a datagram holds at most ${limits.datagramPayloadMax}`,
    );
  }
  if (options.to !== undefined && (options.logLossless || options.logTime !== undefined)) {
    const name = options.logLossless ? "--log-lossless" : "--log-time";
    throw new UsageError(`${name} excludes --to, which logs nothing`);
  }
  const { endpoint } = options.address;
  if (options.to !== undefined) checkFamilies(endpoint.address, options.to);
  const name = `${protocol}://${formatSocketAddress(bindAddress(endpoint))}`;
  const { mark, noTransparent } = options;
  const wish = {
    name,
    port: endpoint.port,
    transparent: !noTransparent,
    marked: mark !== undefined,
  };
  checkThreads(1);
  checkPrivileges(bindNeeds(wish, portStart()));
  const purpose: Purpose =
    options.to === undefined
      ? { kind: "receive" }
      : { kind: "send", to: await resolveTarget(options.to, options.address.endpoint, mark) };
  const socketOptions: SocketOptions = {
    protocol,
    transparent: !options.noTransparent,
    freebind: options.freebind,
    device: options.device,
    mark: options.mark,
    portAtConnect: purpose.kind === "send" && protocol === "tcp",
  };
  const local = localFor(options, purpose);
  const socket = openSocket(socketOptions, local, purpose);
  return purpose.kind === "receive"
    ? hold(options, socket, socketOptions, io)
    : talk({ options, io, socket, socketOptions, purpose, payload });
}

/** Without `--to`: prints what arrives and answers nothing. */
async function hold(
  options: BindOptions,
  socket: OpenSocket,
  socketOptions: SocketOptions,
  io: ProcessIo,
): Promise<number> {
  const { json, logTime: time, logLossless: lossless } = options;
  const log = new Log(io, {
    ...{ protocol: socket.protocol, format: json ? "json" : "auto", time, lossless },
  });
  const { text, fields } = bound(socket, socketOptions, { kind: "receive" });
  log.note(text, fields);
  const task = respondTask(served(socket), { kind: "discard" });
  const { stoppedBy } = await serve(io, [task], log, {
    timeoutMs: options.timeout ?? 0,
    remaining: nothing,
  });
  return servedStatus(stoppedBy);
}

interface Conversation {
  readonly options: BindOptions;
  readonly io: ProcessIo;
  readonly socket: OpenSocket;
  readonly socketOptions: SocketOptions;
  readonly purpose: Purpose & { kind: "send" };
  readonly payload: Uint8Array | undefined;
}

/** With `--to`: carries standard input there and prints what comes back. */
async function talk(conversation: Conversation): Promise<number> {
  const { options, io, socket, socketOptions, purpose, payload } = conversation;
  const { fd, protocol } = socket;
  const task: Task =
    protocol === "tcp"
      ? {
          kind: "pipe",
          fd,
          connectTimeoutMs: options.timeout ?? limits.connectTimeoutMs,
          idleTimeoutMs: options.timeout ?? 0,
          report: options.json,
        }
      : { kind: "datagrams", fd, payload, timeoutMs: options.timeout ?? limits.replyTimeoutMs };
  const { json } = options;
  const transcript = json ? new JsonTranscript(protocol) : new TextTranscript(protocol);
  const { text, fields } = bound(socket, socketOptions, purpose);
  // Standard output carries what the other side sends and nothing else.
  if (json) void io.stdout.write(jsonLine(fields));
  else void io.stderr.write(`${text}\n`);
  // What arrives is what this command is for: none of it is dropped.
  const print = async (events: readonly WorkerEvent[]) => {
    for (const event of events) {
      const isData = event.kind === "received" || json;
      const written = (isData ? io.stdout : io.stderr).write(transcript.render(event));
      if (isData) await written;
    }
  };
  const log = { print, lossless: true, end: () => {} };
  const { outcomes, stoppedBy } = await serve(io, [task], log, { remaining: nothing });
  if (stoppedBy !== undefined && stoppedBy !== "timeout") return cutOffStatus(stoppedBy);
  const error = failure(outcomes);
  if (error === undefined) return exitStatus.success;
  if (error.call === "write" && (error.errno as number) === EPIPE) return exitStatus.brokenPipe;
  if (error.call === "write") throw new CommandError(`standard output: ${error.code}`);
  // The refusal of a datagram has been shown when it came.
  if (protocol === "udp" && (error.errno as number) === ECONNREFUSED) return exitStatus.failure;
  throw refusal(error, socketOptions, socket.local, purpose);
}

function protocolOf(options: BindOptions): Scheme {
  const wishes = new Set<Scheme>();
  if (options.tcp) wishes.add("tcp");
  if (options.udp) wishes.add("udp");
  if (options.address.scheme !== undefined) wishes.add(options.address.scheme);
  if (options.to?.scheme !== undefined) wishes.add(options.to.scheme);
  if (wishes.size > 1) throw new UsageError("a socket is TCP or UDP: give one of --tcp and --udp");
  return wishes.values().next().value ?? "udp";
}

/** Without an address the socket takes the family of what it sends to. */
function localFor(options: BindOptions, purpose: Purpose) {
  const local = bindAddress(options.address.endpoint);
  const isBare = options.address.endpoint.address === undefined;
  if (!isBare || purpose.kind !== "send" || purpose.to.address.length === 4) return local;
  return { ...local, address: new Uint8Array(16) };
}

/** The line about the bound socket, in either form. */
function bound({ protocol, local }: OpenSocket, options: SocketOptions, purpose: Purpose) {
  const address = formatSocketAddress(local);
  const isAny = local.address.every((byte) => byte === 0);
  const owned = isAny ? undefined : isLocalAddress(local.address);
  const to = purpose.kind === "send" ? formatSocketAddress(purpose.to) : undefined;
  const { transparent } = options;
  const head = `[+] Bound to ${protocol}://${address}`;
  const whose = ownership(local.address, owned, options);
  return {
    text: `${head}${to === undefined ? "" : `, sending to ${to}`}${whose}`,
    fields: { event: "bound", protocol, address, local: owned, transparent, to },
  };
}

function ownership(
  address: Uint8Array,
  owned: boolean | undefined,
  options: SocketOptions,
): string {
  const name = formatBytes(address);
  if (address.every((byte) => byte === 0)) {
    const others = options.transparent ? ", and with IP_TRANSPARENT any that is routed here" : "";
    return `\n    ${name} stands for every address of this host${others}`;
  }
  if (owned === undefined) return "";
  if (owned) return `\n    ${name} is an address of this host`;
  const by = options.transparent
    ? "IP_TRANSPARENT"
    : options.freebind
      ? "IP_FREEBIND"
      : "ip_nonlocal_bind";
  return `\n    ${name} is not an address of this host: bound by ${by}`;
}
