/**
 * The messages between the main thread and its Workers. Sockets are made by the main thread, which
 * can still say why one cannot be had; a Worker gets their numbers, since descriptors belong to
 * the whole process.
 */

import type { MessagePort } from "node:worker_threads";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Pool } from "../config/pool.ts";
import type { DialSettings, Timeouts } from "../config/service.ts";
import type { SourceChoice } from "../config/syntax.ts";
import type { Cidr } from "../net/cidr.ts";
import type { Scheme } from "../net/target.ts";
import type { Counters } from "./counters.ts";
import type { End } from "./end-reason.ts";
import type { HealthTarget, HealthTask } from "./health-task.ts";
import type { MoveAnswer, MoveCommand } from "./moved.ts";
import type { KillSelection, RowQuery, WorkerRows } from "./query.ts";
import type { RecordBlock } from "./record-block.ts";

/** A socket that a Worker serves, made, bound and (for TCP) listening. */
export interface ServedSocket {
  readonly fd: number;
  readonly protocol: "tcp" | "udp";
  /** AF_INET or AF_INET6. */
  readonly domain: number;
  /** Where it is bound: 4 or 16 bytes, and in host order. */
  readonly address: Uint8Array;
  readonly port: number;
}

/** How a listener responds. */
export type Responding =
  | { readonly kind: "reply"; readonly bytes: Uint8Array }
  | { readonly kind: "echo" }
  | { readonly kind: "discard" };

/** The bounds of one client: an IPv4 address, or the /64 of an IPv6 address. */
export interface ClientBounds {
  /** At once, at all Workers; 0 for no bound of its own. */
  readonly max: number;
  /** What all Workers count by (`ClientCounts`), with such a bound. */
  readonly counts: SharedArrayBuffer | undefined;
  /** Begun in a second; 0 for no bound. */
  readonly perSecond: number;
  readonly workers: number;
  /** The number of this one, from 0. */
  readonly worker: number;
}

/** The bounds of answers to datagrams. */
export interface AnswerBounds {
  /** An answer may have more bytes than its question. */
  readonly amplifies: boolean;
  /** To one client (an address, of IPv6 a /64); 0: no bound. */
  readonly perSecond: number;
}

/** Accepts and answers: `listen`, and `bind` without `--to`. */
export interface RespondTask {
  readonly kind: "respond";
  readonly sockets: readonly ServedSocket[];
  readonly answer: Responding;
  readonly answers: AnswerBounds;
  /** Connections and datagrams after which the Worker ends by itself; 0 for no end. */
  readonly max: number;
  readonly idleTimeoutMs: number;
  /** Connections at once, and how many beyond them may wait. */
  readonly connectionsMax: number;
  readonly queueMax: number;
  readonly clients: ClientBounds;
  /** Whether events are wanted at all. */
  readonly report: boolean;
}

/** Carries standard input and output over one connected TCP socket: `bind --tcp --to`. */
export interface PipeTask {
  readonly kind: "pipe";
  readonly fd: number;
  readonly connectTimeoutMs: number;
  /** 0: a silent connection may stay. */
  readonly idleTimeoutMs: number;
  /** Reports received data as events instead of writing it to standard output. */
  readonly report: boolean;
}

/** Sends standard input as datagrams and prints the replies: `bind --udp --to`. */
export interface DatagramTask {
  readonly kind: "datagrams";
  readonly fd: number;
  /** Sent once, instead of the lines of standard input. */
  readonly payload: Uint8Array | undefined;
  /** How long another reply is awaited once everything has been sent. */
  readonly timeoutMs: number;
}

/**
 * Carries accepted connections to upstreams: `forward`. Its groups are those of `Service`
 * (config/service.ts), with what the main thread has found out for this Worker.
 */
export interface ForwardTask {
  readonly kind: "forward";
  /** The name of the service. */
  readonly name: string;
  /** Its name in the log; undefined: it has none. */
  readonly service: string | undefined;
  readonly sockets: readonly ServedSocket[];
  readonly ingress: IngressTask;
  readonly route: RouteTask;
  readonly dial: DialSettings;
  readonly limits: ConnectionBounds;
  readonly timeouts: ForwardTimeouts;
  readonly log: ConnectionLog;
  /** For the UDP sockets among `sockets`. */
  readonly sessions: SessionSettings | undefined;
}

/** The connections and sessions that are logged. */
export interface ConnectionLog {
  /** One of `LogLevel`. */
  readonly level: number;
  readonly connections: "all" | "failed" | "none";
  /** Below `debug`, of those that went well one in so many. */
  readonly sample: number;
}

/** How connections and datagrams arrive. */
export interface IngressTask {
  /** Connections come by NAT, which alone knows where they were going (SO_ORIGINAL_DST). */
  readonly redirected: boolean;
  /** Senders whose PROXY protocol headers count, empty for all; undefined: none is expected. */
  readonly acceptProxy: readonly Cidr[] | undefined;
}

/** Where connections go, and from which address. */
export interface RouteTask {
  readonly upstreams: Upstreams;
  readonly pool: PoolRules;
  readonly source: SourceChoice;
  /** Connect from an own address where the client's cannot be used, instead of rejecting. */
  readonly sourceFallback: boolean;
  /** The addresses of this host, 4 or 16 bytes each. */
  readonly ownAddresses: readonly Uint8Array[];
  /** The flows towards upstreams that all Workers have opened (`OutboundFlows`). */
  readonly ownFlows: SharedArrayBuffer;
}

/** How many connections one Worker may have. */
export interface ConnectionBounds {
  /** Connections at once, and how many beyond them may wait or have their header read. */
  readonly connectionsMax: number;
  readonly queueMax: number;
  readonly pipesMax: number;
  readonly clients: ClientBounds;
}

export interface ForwardTimeouts extends Timeouts {
  /** How long open connections may go on once the service has been told to stop. */
  readonly drainMs: number;
}

/** How UDP is forwarded. */
export interface SessionSettings {
  readonly sessionsMax: number;
  readonly clients: ClientBounds;
  /** Sockets of sessions, one or two each. */
  readonly socketsMax: number;
  readonly icmp: IcmpLimits;
  /** The listeners have IP_TRANSPARENT. */
  readonly transparent: boolean;
}

/** How many ICMP errors a Worker may send. */
export interface IcmpLimits {
  readonly perSecond: number;
  readonly burst: number;
  /** The time between two to one host of IPv4 and of IPv6, once six were sent; 0: no limit. */
  readonly perPeerMs: number;
  readonly perPeerMsV6: number;
}

/** How a connection gets an upstream, also when some are down. */
export type PoolRules = Pick<Pool, "name" | "balance" | "onDown" | "whenAllDown" | "backOff">;

/** An address of an upstream. Its weight and state are on the board. */
export interface PooledAddress {
  readonly address: SocketAddress;
  readonly slot: number;
  readonly isBackup: boolean;
  readonly slowStartMs: number;
}

/** Where connections are carried to: fixed upstreams, or the address that the client asked for. */
export type Upstreams =
  | { readonly kind: "original" }
  | {
      readonly kind: "fixed";
      readonly addresses: readonly PooledAddress[];
      /** The memory of the `UpstreamBoard`. */
      readonly board: SharedArrayBuffer;
    };

export type Task = RespondTask | PipeTask | DatagramTask | ForwardTask | HealthTask;

/**
 * What of a `forward` service may change while it runs; what is absent stays. Upstreams and own
 * addresses apply to what begins from now on, and what is open stays where it is. A time-out
 * applies from the next time that a connection's timer fires; those of sessions to new sessions.
 */
export interface ServiceChange {
  readonly route?: Partial<Pick<RouteTask, "upstreams" | "pool" | "ownAddresses">>;
  readonly dial?: Pick<DialSettings, "mark">;
  /** Of checks: all that are checked. */
  readonly targets?: readonly HealthTarget[];
  readonly timeouts?: Partial<ForwardTimeouts>;
  readonly log?: Partial<ConnectionLog>;
  /** All its sockets, of which some may be new; nothing is opened or closed by this. */
  readonly sockets?: readonly ServedSocket[];
  /** No more than the service was begun with. */
  readonly limits?: Pick<ConnectionBounds, "connectionsMax" | "queueMax">;
  /** Ends connections whose upstream is no longer one of `route`; by default none. */
  readonly ends?: "sessions" | "all";
}

/** Applies a change to a task in place: all parts of a service read the same groups. */
export function applyChange(task: ForwardTask, change: ServiceChange): void {
  for (const group of ["route", "dial", "timeouts", "log", "limits"] as const) {
    Object.assign(task[group], change[group]);
  }
}

/** A task that changes on its own: its groups are copies of those of `task`. */
export function ownTask<T extends Task>(task: T): T {
  if (task.kind !== "forward") return task;
  const { route, dial, timeouts, log, limits } = task;
  const groups = { route: { ...route }, dial: { ...dial }, timeouts: { ...timeouts } };
  return { ...task, ...groups, log: { ...log }, limits: { ...limits } };
}

/** The commands of the main thread to a Worker. `id` is the number of a service, from 1. */
export type Command =
  /** Run this. */
  | { readonly kind: "add"; readonly id: number; readonly task: Task }
  | { readonly kind: "update"; readonly id: number; readonly change: ServiceChange }
  /** Receive nothing new of these protocols until another such command leaves them out. */
  | { readonly kind: "suspend"; readonly protocols: readonly Scheme[] }
  /** Give up these listeners of it: close them, or leave them open for another service. */
  | {
      readonly kind: "release";
      readonly id: number;
      readonly closed: readonly number[];
      readonly moved: readonly number[];
    }
  /**
   * Accept as `task` says from now on, at its sockets. What is open stays, but for the sessions of
   * a protocol that is `replaced`.
   */
  | {
      readonly kind: "replace";
      readonly id: number;
      readonly task: ForwardTask;
      readonly replaced: readonly Scheme[];
    }
  /**
   * Take no new work for it, let what is open come to its end, and post that it is `removed`.
   * `drainMs` is how long that may take; without it the service's own time.
   */
  | { readonly kind: "remove"; readonly id: number; readonly drainMs?: number }
  /** Report every connection and session that is open. */
  | { readonly kind: "table" }
  /** Return rows of what is open; `request` is in the message that answers. */
  | { readonly kind: "query"; readonly request: number; readonly query: RowQuery }
  /** End connections and sessions. */
  | { readonly kind: "kill"; readonly request: number; readonly selection: KillSelection }
  | MoveCommand;

/** The input of a new Worker. */
export interface WorkerInput {
  /** An eventfd: readable when there is something to look at in `memory` or at `commandPort`. */
  readonly wakeFd: number;
  readonly memory: SharedArrayBuffer;
  /** Where commands arrive. */
  readonly commandPort: MessagePort;
  /** Waits for a slow reader of standard output, where it would otherwise drop lines. */
  readonly lossless: boolean;
}

/** The events of a Worker, for people and programs to read. Endpoints are text. */
export type WorkerEvent =
  | { kind: "connection"; id: number; client: string; local: string }
  | { kind: "data"; id: number; client: string; local: string; bytes: Uint8Array }
  | {
      kind: "closed" | "refused";
      id: number;
      client: string;
      local: string;
      clientBytes: number;
      upstreamBytes: number;
      end: End;
    }
  | { kind: "datagram"; client: string; local: string; bytes: Uint8Array; upstreamBytes: number }
  | ConnectionEvent
  /** So many lines of the log were dropped: standard output took them too slowly. */
  | { kind: "lost"; lines: number }
  /** The table of a Worker is complete. */
  | { kind: "tableEnd" }
  /** The counters of a Worker, or of all (0). */
  | { kind: "counters"; worker: number; counters: Counters }
  | { kind: "connected" }
  | { kind: "received"; bytes: Uint8Array }
  | { kind: "fault"; errno: number }
  /** A Worker has died, and connections and sessions with it; the main thread logs it. */
  | {
      kind: "died";
      worker: number;
      error: string;
      lost: number;
      lostSessions: number;
      isReplaced: boolean;
    }
  /** `service` is whose it is; undefined: the process's, or that of a service without a name. */
  /** Checks have found an address of an upstream up or down. */
  | { kind: "health"; slot: number; isUp: boolean; reason: string }
  | { kind: "warning"; text: string; service?: string | undefined };

/**
 * Of a forwarded connection or session: it was accepted, its upstream is reached (a session's has
 * answered), it is over or was rejected, or (asked for with the `table` command) it is open.
 */
export interface ConnectionEvent {
  kind: "accepted" | "reached" | "forwarded" | "refused" | "open";
  /** Undefined: of a service without a name. */
  service?: string | undefined;
  worker: number;
  protocol: "tcp" | "udp";
  /** `worker.sequence.generation`: of no other connection or session of this process. */
  id: string;
  /** When, in ms since 1970. */
  time: number;
  state: string;
  client: string;
  local: string;
  upstream: string | undefined;
  source: string;
  /** From the client to the upstream, and from there to the client. */
  clientBytes: number;
  upstreamBytes: number;
  clientDatagrams: number;
  upstreamDatagrams: number;
  /** What has carried the bytes, where those have the headers of the packets as well. */
  packets?: { readonly client: number; readonly upstream: number } | undefined;
  /** How long it took to connect to the upstream; undefined: it is not connected, or UDP. */
  connectMs?: number | undefined;
  /** Upstreams to which connecting failed before. */
  retries?: number | undefined;
  /** Since it was accepted, and since it last carried something. */
  ms: number;
  idleMs: number;
  /** Undefined while it is open. */
  end: End | undefined;
}

/** How much is logged: each level has all of those before it. */
export const LogLevel = {
  /** Faults of our own. */
  error: 0,
  /** Connections and sessions that failed, and what is at its bounds. */
  warning: 1,
  /** Every one, at its end. */
  info: 2,
  /** And when it is accepted and its upstream is reached. */
  debug: 3,
} as const;

/** The messages of a Worker. */
export type WorkerMessage =
  | { readonly kind: "events"; readonly events: readonly (WorkerEvent | RecordBlock)[] }
  /** A service has ended because it was removed, and holds nothing. */
  | { readonly kind: "removed"; readonly id: number }
  | { readonly kind: "rows"; readonly request: number; readonly rows: WorkerRows }
  /** So many connections and sessions were ended. */
  | { readonly kind: "killed"; readonly request: number; readonly ended: number }
  | MoveAnswer
  | { readonly kind: "done"; readonly outcome: Outcome };

/** How a Worker's services ended: `errno` 0 when they did what they were asked. */
export interface Outcome {
  readonly errno: number;
  /** The system call that failed, or what timed out. */
  readonly call: string;
  readonly counters: Counters;
}
