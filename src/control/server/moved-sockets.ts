/** Listening sockets that move to another service, which may need other options of them. */

import type { Service } from "../../config/service.ts";
import { adoptSocket } from "../../engine/sockets.ts";
import type { OpenSocket } from "../listeners.ts";
import type { WantedSockets } from "./listener-plan.ts";
import { listenerOptions, type RunningService } from "./running-service.ts";

/** The sockets of running services, and what was changed of them. */
export class MovedSockets {
  private readonly owners = new Map<OpenSocket, Service>();
  private readonly changed: { readonly socket: OpenSocket; readonly owner: Service }[] = [];

  constructor(running: Iterable<RunningService>) {
    for (const { service, sets } of running) {
      for (const socket of sets.flat()) this.owners.set(socket, service);
    }
  }

  /** Gives those that `service` takes over from others its options. @throws SyscallError */
  adapt({ service, kept }: WantedSockets<Service>): void {
    for (const socket of kept.flatMap((each) => each ?? [])) {
      const owner = this.owners.get(socket);
      if (owner === undefined || !differ(owner, service)) continue;
      this.changed.push({ socket, owner });
      setOptions(socket, service);
    }
  }

  /** Gives them the options that they had. */
  restore(): void {
    for (const { socket, owner } of this.changed) setOptions(socket, owner);
  }
}

/** Those of connections are set with the hand-over. */
function differ({ ingress: one }: Service, { ingress: other }: Service): boolean {
  return one.transparent !== other.transparent || one.clientFirst !== other.clientFirst;
}

function setOptions({ fd, protocol }: OpenSocket, service: Service): void {
  adoptSocket(fd, { protocol, ...listenerOptions(service) });
}
