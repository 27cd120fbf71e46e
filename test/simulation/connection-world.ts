/**
 * Connections of `forward`, all phases of them, over a simulated kernel (`connection-kernel.ts`):
 * clients that come and go, upstreams that fail, bounds that are reached, and what has to hold of
 * it after every turn of the loop and at the end.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { StreamTurns } from "../../src/engine/stream-turns.ts";
import { TimerWheel } from "../../src/engine/timers.ts";
import { ClientCounts } from "../../src/fairness/client-counts.ts";
import type { TcpConnection } from "../../src/forward/tcp/connection.ts";
import { TcpConnections } from "../../src/forward/tcp/connections.ts";
import type { PackedConnection } from "../../src/forward/tcp/moved-connection.ts";
import { Counter, type CounterName, gauges } from "../../src/workers/counters.ts";
import { type EndReason, isRefusal } from "../../src/workers/end-reason.ts";
import type { Frozen } from "../../src/workers/moved.ts";
import { type ForwardTask, LogLevel } from "../../src/workers/protocol.ts";
import { TALLY_VALUES, Tally } from "../../src/workers/tally.ts";
import { readTallies } from "../helpers/tally.ts";
import {
  type Case,
  ConnectionChecks,
  checkClosed,
  checkReached,
  type World,
} from "./connection-checks.ts";
import {
  ClientSocket,
  host,
  SimulatedConnectionKernel,
  UpstreamSocket,
} from "./connection-kernel.ts";
import { AuditedPool, FlowLedger } from "./connection-ledgers.ts";
import { act, queueBytes, type Random, SimulatedRelayKernel, somePeer } from "./sockets.ts";

const WORKERS = 1;

/** What differs from one world to another. */
export type Settings = Pick<ForwardTask["ingress"], "acceptProxy"> &
  Pick<ForwardTask["route"], "pool" | "source" | "upstreams"> &
  Pick<ForwardTask["dial"], "sendProxy"> &
  Pick<ForwardTask["limits"], "connectionsMax" | "queueMax"> & {
    readonly perClientMax: number;
    readonly perSecond: number;
  };

function taskOf(settings: Settings, random: Random): ForwardTask {
  const { acceptProxy, pool, source, upstreams, sendProxy } = settings;
  const { connectionsMax, queueMax, perClientMax, perSecond } = settings;
  const counts = ClientCounts.memory(WORKERS, () => random(0xffffffff));
  return {
    ...{ kind: "forward", name: "test", service: undefined, sockets: [], sessions: undefined },
    ingress: { redirected: false, acceptProxy },
    route: {
      ...{ upstreams, pool, source, sourceFallback: false },
      ...{ ownAddresses: [], ownFlows: new SharedArrayBuffer(8) },
    },
    dial: { mark: undefined, sendProxy, fastOpen: false },
    limits: {
      ...{ connectionsMax, queueMax, pipesMax: 8 },
      clients: { max: perClientMax, counts, perSecond, workers: WORKERS, worker: 0 },
    },
    timeouts: {
      ...{ headerMs: 500, connectMs: 1_000, idleMs: 8_000, halfClosedMs: 3_000, drainMs: 2_000 },
      ...{ sessionIdleMs: 8_000, answeredSessions: [], keepAliveMs: undefined, userMs: undefined },
    },
    log: { level: LogLevel.debug, connections: "all", sample: 1 },
  };
}

export class ConnectionWorld implements World {
  readonly task: ForwardTask;
  readonly relayKernel: SimulatedRelayKernel;
  readonly kernel: SimulatedConnectionKernel;
  readonly pool: AuditedPool | undefined;
  readonly flows = new FlowLedger();
  readonly connections: TcpConnections;
  readonly cases = new Map<number, Case>();
  readonly counters: number[] = [];
  readonly tally = new Float64Array(TALLY_VALUES);
  /** How many ended for each reason. */
  readonly ends = new Map<string, number>();
  isAccepting = true;
  /** What comes before a call, or after a turn, by its number. */
  onCall: (call: number) => void = () => {};
  onTurn: (turn: number) => void = () => {};
  calls = 0;
  turns = 0;
  /** How many connections were frozen. */
  moves = 0;
  /** What is frozen: it goes on in so many turns, here or as another process's. */
  private frozen: {
    readonly one: Case;
    readonly given: Frozen;
    readonly goesOn: "here" | "there";
    turns: number;
  }[] = [];
  private readonly movedOnes = new Set<TcpConnection>();
  private readonly random: Random;
  private readonly checks: ConnectionChecks;
  private readonly timers = new TimerWheel(0);
  private deferred: (() => void)[] = [];
  private ids = 0;
  private sent = 0;
  private received = 0;

  constructor(settings: Settings, random: Random) {
    this.random = random;
    this.task = taskOf(settings, random);
    const called = () => this.onCall(this.calls++);
    this.relayKernel = new SimulatedRelayKernel(random, random(4), () => {
      called();
      return undefined;
    });
    this.kernel = new SimulatedConnectionKernel(this.relayKernel, random, called);
    const { upstreams } = settings;
    if (upstreams.kind === "fixed") {
      this.pool = new AuditedPool(settings.pool, upstreams.addresses, this.kernel);
    }
    const listeners = [host(1, 80)];
    const rules = { source: settings.source, fallback: false, own: new Set<string>(), listeners };
    const world = this;
    const later = { defer: (callback: () => void) => void this.deferred.push(callback) };
    this.connections = new TcpConnections(
      {
        loop: {
          get now() {
            return world.now;
          },
          timers: this.timers,
          defer: later.defer,
          streams: new StreamTurns(later, this.relayKernel),
        },
        log: {
          warn: () => {},
          recordProgress: (kind, connection) => this.recorded(kind, connection as TcpConnection),
          recordEnd: (connection) => this.ended(connection as TcpConnection),
        },
        nextId: () => ++this.ids,
        counters: { count: (counter, amount) => this.count(counter, amount) },
        tally: new Tally(this.tally),
        ...{ task: this.task, kernel: this.kernel, relayKernel: this.relayKernel },
        router: { pool: this.pool, rules, timedOut: () => {}, has: () => true },
        loopDetector: { entered: (fd) => this.flows.enter(fd), flows: this.flows },
        wideOfClient: 2,
      },
      {
        pauseAccepting: () => this.setAccepting(false),
        resumeAccepting: () => this.setAccepting(true),
        connected: () => {},
        closed: () => {},
      },
    );
    this.checks = new ConnectionChecks(this);
  }

  get now(): number {
    return this.kernel.now;
  }

  /** Time passes; nothing else happens until the next turn. */
  pass(ms: number): void {
    this.kernel.now += ms;
    this.kernel.progress();
  }

  /** For so long nothing happens but what has been begun. */
  wait(ms: number): void {
    for (let passed = 0; passed < ms; passed += 40) {
      this.pass(40);
      this.turn();
    }
  }

  /** A client connects, unless it has to wait in the backlog. */
  connect(peer: SocketAddress, owner: SocketAddress, header: Uint8Array): void {
    if (!this.isAccepting || !this.kernel.hasDescriptor) return;
    const client = new ClientSocket();
    client.headerLeft = header;
    if (this.random(20) === 0) client.reset();
    else if (this.random(2) === 0) client.writeHeader(this.random(header.length + 1));
    const fd = this.kernel.add(client);
    const trail = { visits: 0, hopLimit: 0 };
    const connection = this.connections.add(fd, peer, host(200, 9), trail);
    const [clientPeer, upstreamPeer] = [somePeer(this.random), somePeer(this.random)];
    const isProxied = this.task.ingress.acceptProxy !== undefined;
    this.cases.set(connection.id, {
      ...{ connection, client, clientPeer, upstreamPeer, upstream: undefined },
      ...{ owner: isProxied ? owner : peer, phase: connection.phase, since: this.now },
    });
    this.connections.start(connection);
  }

  /** A peer of one of the connections does something. */
  actSomewhere(): void {
    const all = [...this.cases.values()];
    const one = all[this.random(Math.max(1, all.length))];
    if (one === undefined) return;
    const { client, upstream } = one;
    const missing = client.headerLeft.length;
    if (missing > 0 && this.random(30) === 0) client.end();
    else if (missing > 0) {
      client.writeHeader(1 + this.random(missing));
      // The first bytes of the stream may come with the last ones of the header.
      if (client.headerLeft.length === 0) client.write(this.random(3));
    } else if (upstream === undefined || this.random(2) === 0) {
      act(client, one.clientPeer, this.random);
    } else act(upstream, one.upstreamPeer, this.random);
  }

  /** How many connections that are open have moved, or were frozen. */
  get moved(): number {
    return this.movedOnes.size;
  }

  /** Freezes a connection for another process, as at an upgrade. */
  moveSome(goesOn: "here" | "there"): void {
    const all = [...this.cases.values()];
    const one = all[this.random(Math.max(1, all.length))];
    const given = one && this.connections.freeze(one.connection);
    if (one === undefined || given === undefined) return;
    this.movedOnes.add(one.connection);
    this.moves++;
    this.frozen.push({ one, given, goesOn, turns: this.random(3) });
  }

  private goOn(one: Case, given: Frozen, goesOn: "here" | "there"): void {
    const { connection } = one;
    const { connections, pool, kernel } = this;
    const [client = -1, upstream = -1, ...pipes] = given.descriptors;
    const fds =
      goesOn === "here" ? [] : [kernel.duplicate(client), kernel.duplicate(upstream), ...pipes];
    const packed = given.packed as PackedConnection;
    const begin = goesOn === "here" ? undefined : connections.adopt(packed, fds);
    if (begin === undefined) {
      for (const fd of fds.slice(0, 2)) this.relayKernel.close(fd);
      if (connection.picked !== undefined) pool?.resumed(connection.picked, connection.id);
      return connections.thaw(connection);
    }
    const next = [...connections.open].at(-1) as TcpConnection;
    this.movedOnes.add(next);
    if (next.picked !== undefined) pool?.resumed(next.picked, next.id);
    this.cases.delete(connection.id);
    this.cases.set(next.id, { ...one, connection: next });
    this.movedOnes.delete(connection);
    connections.leave(connection);
    begin();
  }

  /** A turn of the loop, and all checks. */
  turn(): void {
    const { frozen } = this;
    this.frozen = frozen.filter(({ turns }) => turns > 0);
    for (const { one, given, goesOn, turns } of frozen) {
      if (turns === 0) this.goOn(one, given, goesOn);
    }
    for (const each of this.frozen) each.turns--;
    this.kernel.dispatch();
    this.timers.advance(this.now);
    const deferred = this.deferred;
    this.deferred = [];
    for (const callback of deferred) callback();
    this.checks.check();
    this.onTurn(this.turns++);
  }

  /** With readers that read, all that was sent has arrived at the other side after some turns. */
  settle(): void {
    for (let i = 0; i < 25; i++) {
      for (const { client, upstream } of this.cases.values()) {
        client.read(queueBytes);
        upstream?.read(queueBytes);
      }
      this.turn();
    }
    this.checks.checkArrived();
  }

  /** Everybody says what is left and ends. Everything has to end with it, and nothing be left. */
  finish(): void {
    this.kernel.descriptorsMax = 1_000;
    for (const port of this.kernel.behaviours.keys()) this.kernel.behaviours.set(port, "accepts");
    for (let i = 0; i < 300 && this.cases.size > 0; i++) {
      for (const { client, upstream } of this.cases.values()) {
        client.writeHeader(client.headerLeft.length);
        client.end();
        upstream?.end();
      }
      this.settleStep();
      this.pass(50);
    }
    if (this.cases.size > 0) {
      const left = [...this.cases.values()].map(({ phase }) => phase);
      throw new Error(`connections that never end: ${left}`);
    }
    this.connections.stop();
    this.checkNothingLeft();
  }

  /** All connections that are open, from the outside: what ends them at any moment. */
  abortSome(): void {
    const all = [...this.cases.values()];
    const one = all[this.random(Math.max(1, all.length))];
    if (one === undefined) return;
    if (one.upstream === undefined) one.connection.abort("stopped");
    else this.connections.endStalled(one.connection);
  }

  private settleStep(): void {
    for (const { client, upstream } of this.cases.values()) {
      client.read(queueBytes);
      upstream?.read(queueBytes);
    }
    this.turn();
  }

  private setAccepting(isAccepting: boolean): void {
    this.isAccepting = isAccepting;
  }

  private count(counter: number, amount: number): void {
    this.counters[counter] = (this.counters[counter] ?? 0) + amount;
  }

  private recorded(kind: string, connection: TcpConnection): void {
    if (kind !== "reached") return;
    const one = this.cases.get(connection.id);
    const socket = this.kernel.sockets.get(connection.upstreamFd ?? -1);
    if (one === undefined || !(socket instanceof UpstreamSocket)) throw new Error("no upstream");
    one.upstream = socket;
    checkReached(one, socket, this);
  }

  private ended(connection: TcpConnection): void {
    const { id, received, sent } = connection;
    const reason = connection.end?.reason ?? "";
    const one = this.cases.get(id);
    if (one === undefined) throw new Error(`connection ${id} ends twice`);
    this.cases.delete(id);
    this.movedOnes.delete(connection);
    this.sent += sent;
    this.received += received;
    this.ends.set(reason, (this.ends.get(reason) ?? 0) + 1);
    checkClosed(one, this);
  }

  private checkNothingLeft(): void {
    const { counters, ends, kernel, relayKernel } = this;
    const left = {
      sockets: kernel.sockets.size,
      timers: this.timers.size,
      flows: this.flows.size,
      pipes: relayKernel.pipesOut,
      wide: relayKernel.wide,
      picks: this.pool?.outstanding ?? 0,
      open: this.connections.open.size,
      active: counters[Counter.active] ?? 0,
      counted: this.checks.countedOfClients(),
    };
    for (const [what, count] of Object.entries(left)) {
      if (count !== 0) throw new Error(`${count} ${what} are left`);
    }
    if (!this.isAccepting) throw new Error("accepting is paused for good");
    const endsOf = (...reasons: EndReason[]) =>
      reasons.reduce((sum, reason) => sum + (ends.get(reason) ?? 0), 0);
    const all = [...ends.values()].reduce((sum, count) => sum + count, 0);
    const totals: [CounterName, number][] = [
      ["accepted", all],
      ["failed", all - endsOf("done")],
      ["clientBytes", this.sent],
      ["upstreamBytes", this.received],
      ...gauges.map((name): [CounterName, number] => [name, 0]),
      ["evictedConnections", endsOf("evicted")],
      ["stalledConnections", endsOf("stalled")],
      ["refusedConnections", endsOf("no-place", "client-limit", "client-rate")],
    ];
    for (const [name, expected] of totals) {
      const counted = counters[Counter[name]] ?? 0;
      if (counted !== expected) throw new Error(`${name}: ${counted} counted of ${expected}`);
    }
    this.checkTally(all);
  }

  /** Each end is counted by its reason, and by how long it took unless it was rejected. */
  private checkTally(all: number): void {
    const { ends, duration } = readTallies([this.tally]);
    const tallied = new Map<string, number>();
    for (const { reason, count } of ends) tallied.set(reason, (tallied.get(reason) ?? 0) + count);
    for (const [reason, count] of this.ends) {
      if (tallied.get(reason) !== count) throw new Error(`${reason}: not tallied ${count} times`);
    }
    const refused = ends.filter(({ reason }) => isRefusal(reason));
    const timed = duration.counts.reduce((sum, count) => sum + count, 0);
    const expected = all - refused.reduce((sum, { count }) => sum + count, 0);
    if (timed !== expected) throw new Error(`${timed} timed of ${expected}`);
  }
}
