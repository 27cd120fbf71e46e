/**
 * The difference between two tasks of one service, as a Worker takes it over while it runs. Most
 * settings change in place. Others are of how a connection begins: then a new part of the service
 * accepts from now on, and what is open stays with the old one. Pure.
 */

import type { Scheme } from "../net/target.ts";
import type { ClientBounds, ForwardTask, ServiceChange, SessionSettings } from "./protocol.ts";

/** The steps from one task to another. */
export interface TaskChange {
  /** The protocols whose part is made anew, with all of `task`. */
  readonly replaced: readonly Scheme[];
  /** For the parts that stay, and for those that were replaced before. */
  readonly change: ServiceChange;
  /** The new task, as far as parts that stay can have it. */
  readonly task: ForwardTask;
  /** The sizes of the parts from now on. */
  readonly capacity: Capacity;
}

/** The sizes of a service's parts, which bound what is open at once. 0: there is no such part. */
export interface Capacity {
  readonly connections: number;
  readonly sessions: number;
}

/** The capacity of parts that are made of `task`. */
export function capacityOf(task: ForwardTask): Capacity {
  const connections = carries(task, "tcp") ? placesOf(task) : 0;
  return { connections, sessions: task.sessions?.sessionsMax ?? 0 };
}

function placesOf({ limits: { connectionsMax, queueMax } }: ForwardTask): number {
  return connectionsMax + queueMax;
}

/** The change from `before` to `after`, of parts with this capacity. */
export function taskChange(
  before: ForwardTask,
  after: ForwardTask,
  capacity: Capacity,
): TaskChange {
  // The memory that counts clients' connections stays while its bounds do.
  const clients = sameBounds(before.limits.clients, after.limits.clients);
  const limits = { ...after.limits, clients };
  const replaced = (["tcp", "udp"] as const).filter((protocol) =>
    isReplaced(protocol, before, after, capacity),
  );
  const kept = after.sessions && sameSessions(before.sessions, after.sessions, capacity);
  const task = { ...after, limits, sessions: replaced.includes("udp") ? after.sessions : kept };
  const { route, timeouts, log, dial } = task;
  const made = capacityOf(task);
  // A part without a socket in the new task ends; a later one is made anew.
  const stays = (protocol: Scheme) => carries(after, protocol) && !replaced.includes(protocol);
  return {
    replaced,
    task,
    capacity: {
      connections: stays("tcp") ? capacity.connections : made.connections,
      sessions: stays("udp") ? capacity.sessions : made.sessions,
    },
    change: {
      route: {
        upstreams: route.upstreams,
        pool: route.pool,
        ownAddresses: route.ownAddresses,
      },
      dial: { mark: dial.mark },
      ...(isEqual(timeouts, before.timeouts) ? {} : { timeouts }),
      log,
      sockets: task.sockets,
      limits: { connectionsMax: limits.connectionsMax, queueMax: limits.queueMax },
    },
  };
}

function isReplaced(
  protocol: Scheme,
  before: ForwardTask,
  after: ForwardTask,
  capacity: Capacity,
): boolean {
  // The part may be there without a socket: all that it had may have been released.
  if (!carries(after, protocol)) return false;
  const beginning = (task: ForwardTask) => [
    task.ingress,
    task.dial.sendProxy,
    task.route.source,
    task.route.sourceFallback,
    task.route.upstreams.kind,
    protocol === "tcp" ? boundsOf(task.limits.clients) : sessionBounds(task.sessions),
  ];
  const isOther = !isEqual(beginning(before), beginning(after));
  return isOther || (protocol === "tcp" && placesOf(after) > capacity.connections);
}

/** Whether two parts of tasks are the same; of shared memory a task has one for life. */
export function isEqual(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Whether a task has sockets of a protocol. */
function carries({ sockets }: ForwardTask, protocol: Scheme): boolean {
  return sockets.some((socket) => socket.protocol === protocol);
}

function boundsOf({ max, perSecond }: ClientBounds) {
  return { max, perSecond };
}

function sessionBounds(sessions: SessionSettings | undefined) {
  return sessions && [boundsOf(sessions.clients), sessions.transparent];
}

function sameBounds(before: ClientBounds, after: ClientBounds): ClientBounds {
  return isEqual(boundsOf(before), boundsOf(after)) ? before : after;
}

/** Sessions have places of their own, which do not grow while they are there. */
function sameSessions(
  before: SessionSettings | undefined,
  after: SessionSettings,
  { sessions }: Capacity,
): SessionSettings {
  if (before === undefined) return after;
  const clients = sameBounds(before.clients, after.clients);
  return { ...after, clients, sessionsMax: Math.min(after.sessionsMax, sessions) };
}
