/** `tproxy forward`: carries connections to backends that see the client's own address. */

import { networkInterfaces } from "node:os";
import { object } from "@optique/core/constructs";
import { commandLine } from "@optique/core/message";
import { multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as limits from "../engine/limits.ts";
import type { ForwardTask, SourceChoice, Upstreams } from "../engine/protocol.ts";
import { parseAddress } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { socketAddress } from "../proto/proxy-header.ts";
import { raiseDescriptorLimit } from "./descriptors.ts";
import { type Edges, exitStatus } from "./edges.ts";
import { resolveTarget } from "./endpoints.ts";
import { examplesFooter } from "./examples.ts";
import { UsageError } from "./failure.ts";
import { networkSourceValue, readNetworks } from "./network-lists.ts";
import { type OpenSocket, openForWorkers, served } from "./open-socket.ts";
import { prose } from "./prose.ts";
import { serve } from "./serve.ts";
import { JsonTranscript, jsonLine, TextTranscript } from "./transcript.ts";
import {
  durationValue,
  listValue,
  markValue,
  numberValue,
  schemedEndpointValue,
  sourceValue,
  upstreamValue,
  wordValue,
} from "./values.ts";

const fields = object({
  command: constant("forward"),
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
  to: multiple(
    option("--to", upstreamValue(), {
      description: prose`Carry connections there; several take turns, and when one cannot be
        reached the next is tried. ${"original"}: to the address that the client asked for.`,
    }),
    { min: 1, errors: { tooFew: prose`--to is missing: give HOST:PORT or ${"original"}` } },
  ),
  source: withDefault(
    option("--source", sourceValue(), {
      description: prose`Whose address the upstream sees: ${"client"} (the default), with
        ${"client:port"} also the port, ${"self"}, or an address.`,
    }),
    { kind: "client", keepPort: false } as SourceChoice,
  ),
  sourceFallback: optional(
    option("--source-fallback", wordValue("self", ["self"]), {
      description: prose`Connect from an own address where the client's cannot be used (IPv6 to
        IPv4), instead of refusing.`,
    }),
  ),
  acceptProxy: withDefault(
    flag("--accept-proxy", {
      description: prose`Expect the PROXY protocol, version 1 or 2: it says who the client is.`,
    }),
    false,
  ),
  proxyFrom: multiple(
    option("--proxy-from", listValue(networkSourceValue()), {
      description: prose`With --accept-proxy: only from these networks; others are refused.`,
    }),
  ),
  sendProxy: optional(
    option("--send-proxy", wordValue("v1|v2", ["v1", "v2"]), {
      description: prose`Begin each connection to an upstream with the PROXY protocol.`,
    }),
  ),
  mark: optional(
    option("--mark", markValue(), {
      description: prose`Mark the connections to upstreams, for ip rules and loop guards.`,
    }),
  ),
  maxConnections: optional(
    option("--max-connections", numberValue("N", 1, 1_000_000), {
      description: prose`Accept no more than so many at once. By default as many as the limit on
        descriptors allows.`,
    }),
  ),
  connectTimeout: withDefault(
    option("--connect-timeout", durationValue(), {
      description: prose`How long connecting may take; 10s by default.`,
    }),
    limits.connectTimeoutMs,
  ),
  idleTimeout: withDefault(
    option("--idle-timeout", durationValue(), {
      description: prose`Close what carries nothing for so long; 10m by default.`,
    }),
    limits.forwardIdleTimeoutMs,
  ),
  halfClosedTimeout: withDefault(
    option("--half-closed-timeout", durationValue(), {
      description: prose`The same for a connection whose one side has ended; 60s by default.`,
    }),
    limits.halfClosedTimeoutMs,
  ),
  drainTimeout: withDefault(
    option("--drain-timeout", durationValue(), {
      description: prose`After SIGTERM, how long open connections may go on; 30s by default.`,
    }),
    limits.drainTimeoutMs,
  ),
  workers: withDefault(
    option("--workers", numberValue("N", 1, 64), {
      description: prose`Share the traffic among N threads (SO_REUSEPORT); 1 by default.`,
    }),
    1,
  ),
  noTransparent: withDefault(
    flag("--no-transparent", {
      description: prose`Accept at own addresses only, without IP_TRANSPARENT.`,
    }),
    false,
  ),
  quiet: withDefault(flag("-q", "--quiet", { description: prose`No access log.` }), false),
  json: withDefault(
    flag("--json", { description: prose`The log as JSON, an object a line.` }),
    false,
  ),
});

const examples: readonly (readonly [string, string])[] = [
  ["sudo tproxy forward :80 --to 192.0.2.10:80", "the backend sees the clients' addresses"],
  ["sudo tproxy forward :50080 --to original", "on to where each client wanted to go"],
  ["sudo tproxy forward :80 --accept-proxy --to 127.0.0.1:8080", "behind a load balancer"],
  ["tproxy forward --no-transparent :8080 --source self --to 127.0.0.1:80", "no privileges"],
];

/** The command `forward` for the argument parser. */
export const forwardCommand = command("forward", fields, {
  brief: prose`Carry TCP connections to backends that see the client's own address.`,
  description: prose`Accepts connections to any address and relays each to an upstream, connected
    from the client's address. For the replies of the upstream to come back through this host see
    ${commandLine("tproxy routes --reply-path --help")}. SIGTERM and SIGINT stop accepting and let
    open connections end; a second one ends at once.`,
  footer: examplesFooter(examples),
});

export type ForwardOptions = InferValue<typeof fields>;

/** Runs `forward` until it is stopped; the exit status. @throws UsageError, CommandError */
export async function runForward(options: ForwardOptions, edges: Edges): Promise<number> {
  if (options.proxyFrom.length > 0 && !options.acceptProxy) {
    throw new UsageError("--proxy-from says whose headers count: give --accept-proxy with it");
  }
  if (options.addresses.some(({ scheme }) => scheme === "udp")) {
    throw new UsageError("forward carries TCP: give an address without udp://");
  }
  if ((options.maxConnections ?? options.workers) < options.workers) {
    throw new UsageError(
      `--max-connections ${options.maxConnections} is less than one for each of the ` +
        `${options.workers} workers: give at least ${options.workers}, or fewer --workers`,
    );
  }
  const upstreams = await resolveUpstreams(options);
  const descriptors = raiseDescriptorLimit();
  const wanted = options.addresses.map(({ endpoint }) => ({ protocol: "tcp", endpoint }) as const);
  const sets = openForWorkers(options.workers, wanted, {
    transparent: !options.noTransparent,
    noDelay: true,
  });
  for (const { local } of sets[0] ?? []) await edges.stdout.write(boundLine(local, options.json));
  const tasks = sets.map((sockets, worker) =>
    task(options, upstreams, sockets, descriptors, worker),
  );
  const transcript = options.json ? new JsonTranscript("tcp") : new TextTranscript("tcp");
  const { stoppedBy } = await serve(
    edges,
    tasks,
    (events) => edges.stdout.write(events.map((event) => transcript.render(event)).join("")),
    { drainTimeoutMs: options.drainTimeout },
  );
  return stoppedBy === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
}

function task(
  options: ForwardOptions,
  upstreams: Upstreams,
  sockets: readonly OpenSocket[],
  descriptors: number,
  worker: number,
): ForwardTask {
  // A connection has two sockets; a part of the descriptors is for the pipes of busy ones.
  const pipesMax = Math.max(
    4,
    Math.min(limits.pipesMax, Math.floor(descriptors / 8 / options.workers)),
  );
  const share = Math.floor((descriptors - 2 * pipesMax * options.workers) / 2 / options.workers);
  return {
    kind: "forward",
    sockets: sockets.map(served),
    upstreams,
    source: options.source,
    sourceFallback: options.sourceFallback === "self",
    acceptProxy: options.acceptProxy ? readNetworks(options.proxyFrom.flat()) : undefined,
    sendProxy: options.sendProxy,
    mark: options.mark,
    ownAddresses: ownAddresses(),
    connectionsMax: Math.max(1, Math.min(share, partOf(options, worker) ?? share)),
    pipesMax,
    headerTimeoutMs: limits.headerTimeoutMs,
    connectTimeoutMs: options.connectTimeout,
    idleTimeoutMs: options.idleTimeout,
    halfClosedTimeoutMs: options.halfClosedTimeout,
    drainTimeoutMs: options.drainTimeout,
    report: !options.quiet,
  };
}

/** Of --max-connections, the part of one Worker: together they make just that. */
function partOf({ maxConnections, workers }: ForwardOptions, worker: number): number | undefined {
  return maxConnections && Math.floor((maxConnections + worker) / workers);
}

/** @throws UsageError for `original` beside others, CommandError for a name without an address */
async function resolveUpstreams(options: ForwardOptions): Promise<Upstreams> {
  if (options.to.includes("original")) {
    if (options.to.length > 1)
      throw new UsageError("--to original stands alone: give no other --to");
    return { kind: "original" };
  }
  const addresses: SocketAddress[] = [];
  for (const target of options.to) {
    if (target === "original") continue;
    if (target.scheme === "udp") throw new UsageError("forward carries TCP: give --to HOST:PORT");
    const resolved = await resolveTarget(target, { address: undefined });
    // An IPv4-mapped address is compared with clients and with our own as the IPv4 one that it is.
    const plain = socketAddress(resolved.address, resolved.port);
    addresses.push(plain.address.length === 4 ? plain : resolved);
  }
  return { kind: "fixed", addresses };
}

function boundLine(local: SocketAddress, json: boolean): string {
  const address = formatSocketAddress(local);
  if (json) return jsonLine({ event: "bound", protocol: "tcp", address });
  return `[+] Bound to tcp://${address}\n`;
}

function ownAddresses(): Uint8Array[] {
  return Object.values(networkInterfaces())
    .flatMap((infos) => infos ?? [])
    .flatMap(({ address }) => {
      const parsed = parseAddress(address, { zone: true });
      return parsed.ok ? [parsed.value.bytes] : [];
    });
}
