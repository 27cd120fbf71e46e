/** `tproxy forward`: carries connections to backends that see the client's own address. */

import { networkInterfaces } from "node:os";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as limits from "../engine/limits.ts";
import type { ForwardTask, Upstreams, WorkerEvent } from "../engine/protocol.ts";
import { parseAddress } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { raiseDescriptorLimit } from "./descriptors.ts";
import { type Edges, exitStatus } from "./edges.ts";
import { UsageError } from "./failure.ts";
import type { ForwardOptions } from "./forward-options.ts";
import { UpstreamList } from "./forward-upstreams.ts";
import { readNetworks } from "./network-lists.ts";
import { type OpenSocket, openForWorkers, served } from "./open-socket.ts";
import { serve } from "./serve.ts";
import { JsonTranscript, jsonLine, TextTranscript } from "./transcript.ts";

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
  if (options.to.some((to) => to !== "original" && to.scheme === "udp")) {
    throw new UsageError("forward carries TCP: give --to HOST:PORT");
  }
  const upstreams = await UpstreamList.resolve(options.to);
  const descriptors = raiseDescriptorLimit();
  const wanted = options.addresses.map(({ endpoint }) => ({ protocol: "tcp", endpoint }) as const);
  const sets = openForWorkers(options.workers, wanted, {
    transparent: !options.noTransparent,
    noDelay: true,
  });
  for (const { local } of sets[0] ?? []) await edges.stdout.write(boundLine(local, options.json));
  const tasks = sets.map((sockets, worker) =>
    task(options, upstreams.upstreams, sockets, descriptors, worker),
  );
  const transcript = options.json ? new JsonTranscript("tcp") : new TextTranscript("tcp");
  const print = (events: readonly WorkerEvent[]) =>
    edges.stdout.write(events.map((event) => transcript.render(event)).join(""));
  const say = (text: string) => void print([{ kind: "warning", text }]);
  try {
    const { stoppedBy } = await serve(edges, tasks, print, {
      drainTimeoutMs: options.drainTimeout,
      replaces: true,
      started: (crew) =>
        upstreams.watch((list) => crew.send({ kind: "upstreams", upstreams: list }), say),
    });
    return stoppedBy === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
  } finally {
    upstreams.close();
  }
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
    balance: options.balance,
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
