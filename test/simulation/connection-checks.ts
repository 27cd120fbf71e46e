/** What has to hold of connections: after every turn, when one is connected, and at its end. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { PREFIX_WORDS, writePrefix } from "../../src/engine/client-prefix.ts";
import { ClientCounts } from "../../src/fairness/client-counts.ts";
import type { TcpConnection } from "../../src/forward/tcp/connection.ts";
import { decodeProxyHeader } from "../../src/proto/proxy-protocol.ts";
import type { End, EndReason } from "../../src/workers/end-reason.ts";
import type { ForwardTask } from "../../src/workers/protocol.ts";
import {
  type ClientSocket,
  host,
  type SimulatedConnectionKernel,
  type UpstreamSocket,
} from "./connection-kernel.ts";
import type { Peer } from "./sockets.ts";

/** What the timer wheel and the steps of the simulation may add to time-outs, of three attempts. */
const SLACK_MS = 200;
const ACCEPT_PAUSE_MS = 100;

/** Of clients 10.0.0.0 to 10.0.0.9. */
export const CLIENTS = 10;

const same = (a: Uint8Array, b: Uint8Array) => a.join() === b.join();

/** One connection, and its two peers. */
export interface Case {
  readonly connection: TcpConnection;
  readonly client: ClientSocket;
  /** Who its PROXY protocol header says that it is, or its peer. */
  readonly owner: SocketAddress;
  readonly clientPeer: Peer;
  readonly upstreamPeer: Peer;
  /** Once it is connected. */
  upstream: UpstreamSocket | undefined;
  /** Since when it has had the phase that it has. */
  phase: string;
  since: number;
}

/** All connections, and what is around them. */
export interface World {
  readonly task: ForwardTask;
  readonly now: number;
  readonly isAccepting: boolean;
  readonly kernel: SimulatedConnectionKernel;
  readonly cases: ReadonlyMap<number, Case>;
  /** How many connections that are open have moved, or were frozen. */
  readonly moved: number;
}

export class ConnectionChecks {
  private readonly world: World;
  private readonly counts: ClientCounts;
  private freeSince = Number.POSITIVE_INFINITY;

  constructor(world: World) {
    this.world = world;
    const { counts } = world.task.limits.clients;
    this.counts = new ClientCounts(counts as SharedArrayBuffer, 1, 0);
  }

  /** How many connections the bounds of clients count. */
  countedOfClients(): number {
    const prefix = new Uint32Array(PREFIX_WORDS);
    let sum = 0;
    for (let client = 0; client < CLIENTS; client++) {
      writePrefix(host(client, 1), prefix);
      sum += this.counts.of(prefix);
    }
    return sum;
  }

  check(): void {
    for (const one of this.world.cases.values()) this.checkTime(one);
    this.checkPlaces();
    this.checkWaiting();
  }

  /** All that was sent has reached the other side, where nobody has reset or is not yet relayed. */
  checkArrived(): void {
    for (const { client, connection, upstream } of this.world.cases.values()) {
      if (upstream === undefined || client.isReset || upstream.isReset) continue;
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        if (to.peerGot === from.peerSent) continue;
        const { id, phase } = connection;
        throw new Error(`${to.peerGot} of ${from.peerSent} bytes arrived: ${id}, ${phase}`);
      }
    }
  }

  /** No phase takes longer than it may. */
  private checkTime(one: Case): void {
    const { connection } = one;
    const { task, now } = this.world;
    if (connection.phase !== one.phase) {
      one.phase = connection.phase;
      one.since = now;
    }
    const half = Math.min(task.timeouts.idleMs, task.timeouts.halfClosedMs);
    const limits: Record<string, [since: number, ms: number]> = {
      header: [one.since, task.timeouts.headerMs],
      queued: [one.since, task.timeouts.connectMs],
      // Three attempts, and the time without a descriptor before them.
      connecting: [one.since, 4 * task.timeouts.connectMs],
      relaying: [connection.lastActive, task.timeouts.idleMs],
      "half-closed": [connection.lastActive, half],
    };
    const limit = limits[connection.phase];
    if (limit === undefined) throw new Error(`phase ${connection.phase} of what is open`);
    const [since, ms] = limit;
    if (now - since > ms + SLACK_MS) throw new Error(`${connection.phase} for ${now - since} ms`);
  }

  private checkPlaces(): void {
    const { cases, task } = this.world;
    const all = [...cases.values()].map(({ connection }) => connection);
    const placed = all.filter(({ hasPlace }) => hasPlace);
    // One that moves back may find its place taken.
    if (placed.length > task.limits.connectionsMax + this.world.moved)
      throw new Error(`${placed.length} places are taken`);
    if (all.length > task.limits.connectionsMax + task.limits.queueMax)
      throw new Error("too many are open");
    const queued = all.filter(({ phase }) => phase === "queued");
    if (queued.length > 0 && placed.length < task.limits.connectionsMax) {
      throw new Error("one waits although there is a place");
    }
    const known = [...placed, ...queued];
    const { max } = task.limits.clients;
    for (const { client } of known) {
      const own = known.filter((other) => same(other.client.address, client.address));
      if (max > 0 && own.length > max) throw new Error(`a client has ${own.length} connections`);
    }
    if (this.countedOfClients() !== known.length) {
      throw new Error(`${this.countedOfClients()} counted for ${known.length} connections`);
    }
  }

  /** Accepting is paused exactly while one has no descriptor, and no longer than it has to. */
  private checkWaiting(): void {
    const { cases, isAccepting, kernel, now } = this.world;
    const isWaiting = [...cases.values()].some(
      ({ connection }) => connection.phase === "connecting" && connection.upstreamFd === undefined,
    );
    if (isWaiting === isAccepting) throw new Error(`accepting: ${isAccepting}, though one waits`);
    if (!isWaiting || !kernel.hasDescriptor) this.freeSince = Number.POSITIVE_INFINITY;
    else this.freeSince = Math.min(this.freeSince, now);
    if (now - this.freeSince > ACCEPT_PAUSE_MS + SLACK_MS)
      throw new Error("waits for what is free");
  }
}

/** A connection is connected: from the right address, and with the right header. */
export function checkReached(one: Case, socket: UpstreamSocket, { task }: World): void {
  const { connection, owner } = one;
  if (socket.state !== "connected") throw new Error(`reached an upstream that is ${socket.state}`);
  if (!same(connection.client.address, owner.address)) throw new Error("another client");
  const { source } = socket.dial;
  const expected = { self: undefined, client: owner, address: task.route.source }[
    task.route.source.kind
  ];
  const address = expected !== undefined && "address" in expected ? expected.address : undefined;
  if ((source?.address.join() ?? "") !== (address?.join() ?? "")) throw new Error("another source");
  if ((socket.header === undefined) !== (task.dial.sendProxy === undefined)) {
    throw new Error("a header that was not asked for, or none");
  }
  if (socket.header === undefined) return;
  const decoded = decodeProxyHeader(socket.header);
  if (decoded.kind !== "header") throw new Error("the upstream does not understand the header");
  const named = decoded.header.source;
  if (named !== undefined && !same(named.address, owner.address)) throw new Error("another name");
}

/** A connection is closed, with both its sockets. */
export function checkClosed(one: Case, world: World): void {
  const { client, connection, upstream } = one;
  const { end, received, sent } = connection;
  const open = [...world.kernel.sockets.values()];
  if (open.includes(client) || (upstream !== undefined && open.includes(upstream))) {
    throw new Error("closed with a socket that is open");
  }
  if (sent !== (upstream?.relayed ?? 0) || received !== (upstream ? client.relayed : 0)) {
    throw new Error("sent or received is wrong");
  }
  if (end === undefined) throw new Error("it has no end");
  checkReason(one, end, world);
  const isReset = client.willReset || upstream?.willReset === true;
  if (end.reason === "done") return checkClean(one, isReset);
  // What ends both streams by the way of their own ends is no reset, nor is silence.
  if (!end.reason.startsWith("idle")) {
    const sockets = upstream === undefined ? [client] : [client, upstream];
    if (!sockets.every(({ willReset }) => willReset)) throw new Error(`${end.reason} is no reset`);
  }
  // An end that is no reset must not be taken for the end of a stream that it is not.
  if (isReset || upstream === undefined || client.isReset || upstream.isReset) return;
  if (client.taken !== upstream.relayed || upstream.taken !== client.relayed) {
    throw new Error(`${end.reason}: bytes are lost, and nobody hears of it`);
  }
}

function checkClean({ client, upstream }: Case, isReset: boolean): void {
  if (isReset) throw new Error("a reset at the end of both streams");
  if (upstream === undefined) throw new Error("a clean end of what was never connected");
  if (client.isReset || upstream.isReset) return;
  if (!client.peerEnded || !upstream.peerEnded)
    throw new Error("a clean end that nobody asked for");
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    if (to.relayed !== from.peerSent) throw new Error(`${to.relayed} of ${from.peerSent} bytes`);
    // Every byte, in order.
    to.read(Number.POSITIVE_INFINITY);
  }
}

/** The reason is the true one: no time-out comes early, and nobody is blamed for another. */
function checkReason(one: Case, { by, reason }: End, { now, task }: World): void {
  const { client, connection, phase, since, upstream } = one;
  const half = Math.min(task.timeouts.idleMs, task.timeouts.halfClosedMs);
  const idleMs = connection.isHalfClosed ? half : task.timeouts.idleMs;
  const silentMs = now - connection.lastActive;
  const age = now - connection.startedAt;
  const least: Partial<Record<EndReason, [is: number, atLeast: number]>> = {
    "idle-timeout": [silentMs, idleMs],
    "idle-shortened": [silentMs, idleMs / 8],
    "proxy-header-timeout": [age, task.timeouts.headerMs],
    "connect-timeout": [age, task.timeouts.connectMs],
    "no-room": [age, task.timeouts.connectMs],
  };
  const [is, atLeast] = least[reason] ?? [0, 0];
  if (is < atLeast) throw new Error(`${reason} after ${is} ms, ${phase} since ${since}`);
  if (reason !== "reset") return;
  const blamed = { client, upstream, proxy: undefined, unknown: undefined }[by];
  if (blamed?.isReset !== true) throw new Error(`reset by ${by}, who has not reset`);
}
