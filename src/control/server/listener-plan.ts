/**
 * Which listening sockets of a server stay when its services change, which move from one service to
 * another, and which are opened or closed. A socket that any service wants stays open, and in its
 * Worker: what waits in its queue would be lost with it. Pure but for names of interfaces.
 */

import type { Listener, Service } from "../../config/service.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import type { ReleasedSockets } from "../../workers/pool.ts";
import { bindAddress } from "../endpoints.ts";
import type { OpenSocket } from "../listeners.ts";

/** A service that has sockets: those of each Worker, in the order of its listeners. */
export interface ListeningService {
  readonly service: Pick<Service, "name" | "listen">;
  readonly sets: readonly (readonly OpenSocket[])[];
}

/** The sockets of a service before it runs by its new description. */
export interface WantedSockets<T extends Pick<Service, "name" | "listen">> {
  readonly service: T;
  /** By listener, the socket of each Worker; undefined: it has to be opened. */
  readonly kept: readonly (readonly OpenSocket[] | undefined)[];
}

export interface ListenerPlan<T extends Pick<Service, "name" | "listen">> {
  readonly wanted: readonly WantedSockets<T>[];
  /** By the name of a service that has sockets: those that it gives up, for each Worker. */
  readonly released: ReadonlyMap<string, readonly ReleasedSockets[]>;
  /** All sockets that are closed. */
  readonly closed: readonly OpenSocket[];
}

/** The plan that leads from the services that run to `next`. */
export function planListeners<T extends Pick<Service, "name" | "listen">>(
  running: readonly ListeningService[],
  next: readonly T[],
): ListenerPlan<T> {
  const open = new Map<string, { owner: string; sockets: OpenSocket[] }>();
  for (const { service, sets } of running) {
    for (const [i, listener] of service.listen.entries()) {
      const sockets = sets.flatMap((set) => set[i] ?? []);
      open.set(keyOf(service.name, listener, i), { owner: service.name, sockets });
    }
  }
  const moved = new Map<string, Set<OpenSocket>>();
  const stays = new Set<OpenSocket>();
  const wanted = next.map((service): WantedSockets<T> => {
    const kept = service.listen.map((listener, i) => {
      const found = open.get(keyOf(service.name, listener, i));
      if (found === undefined) return undefined;
      const group = found.owner === service.name ? stays : moved.get(found.owner);
      const into = group ?? new Set<OpenSocket>();
      if (group === undefined) moved.set(found.owner, into);
      for (const socket of found.sockets) into.add(socket);
      return found.sockets;
    });
    return { service, kept };
  });
  const closed: OpenSocket[] = [];
  const released = new Map(
    running.map(({ service: { name }, sets }) => {
      const leaves = moved.get(name) ?? new Set();
      const lists = sets.map((set): ReleasedSockets => {
        const gone = set.filter((socket) => !stays.has(socket));
        const closing = gone.filter((socket) => !leaves.has(socket));
        closed.push(...closing);
        return {
          closed: closing.map(({ fd }) => fd),
          moved: gone.filter((socket) => leaves.has(socket)).map(({ fd }) => fd),
        };
      });
      return [name, lists];
    }),
  );
  return { wanted, released, closed };
}

/** What tells a listener: its address; of a port that the kernel chooses, whose it is. */
function keyOf(service: string, { protocol, endpoint }: Listener, index: number): string {
  const address = `${protocol} ${formatSocketAddress(bindAddress(endpoint))}`;
  return endpoint.port === 0 ? `${address} ${service} ${index}` : address;
}
