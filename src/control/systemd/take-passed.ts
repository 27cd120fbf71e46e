/** Takes what the service manager has passed at the start, and checks it against the services. */

import * as sys from "../../../ffi/sys.ts";
import type { Service } from "../../config/service.ts";
import { CommandError } from "../../errors.ts";
import { quote } from "../../net/result.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { bindAddress } from "../endpoints.ts";
import { type InheritedSocket, inspectSocket, isAt, type Wanted } from "../inherited-sockets.ts";
import { forgetPassed, isStored, passedDescriptors, placeOf } from "./passed-sockets.ts";

export interface Passed {
  readonly sockets: readonly InheritedSocket[];
  /** By inode, the names of those that an earlier process has stored. */
  readonly stored: ReadonlyMap<number, string>;
  /** Inodes of those that belong to `.socket` units. */
  readonly owned: ReadonlySet<number>;
  /** Names under which nothing is kept that could serve. */
  readonly useless: readonly string[];
}

/**
 * Takes the sockets that `env` announces to process `pid`, and the announcement out of `env`.
 * @throws CommandError where a `.socket` unit has another socket than its service wants
 */
export function takePassed(
  env: NodeJS.ProcessEnv,
  pid: number,
  services: readonly Service[],
): Passed {
  const passed = passedDescriptors(env, pid);
  forgetPassed(env);
  const sockets: InheritedSocket[] = [];
  const stored = new Map<number, string>();
  const owned = new Set<number>();
  const useless: string[] = [];
  for (const { fd, name } of passed) {
    const socket = inspectSocket(fd);
    if (isStored(name)) {
      if (typeof socket === "string") {
        useless.push(name);
        sys.close(fd);
        continue;
      }
      stored.set(socket.inode, name);
    } else {
      const problem = typeof socket === "string" ? socket : misplaced(socket, name, services);
      if (problem !== undefined) refuse(fd, name, socket, problem);
      owned.add((socket as InheritedSocket).inode);
    }
    sockets.push(socket as InheritedSocket);
  }
  return { sockets, stored, owned, useless };
}

/** Why a socket is not what the service that it is named after listens at; undefined: it is. */
function misplaced(
  socket: InheritedSocket,
  name: string,
  services: readonly Service[],
): string | undefined {
  const place = placeOf(name, services);
  if (typeof place === "string") return place;
  const candidates = place === undefined ? services : [place.service];
  const listeners = candidates.flatMap(({ listen }) => listen.map(wantedBy));
  const wanted = place?.index === undefined ? listeners : [listeners[place.index] as Wanted];
  if (wanted.some((each) => isAt(socket, each))) return undefined;
  if (place === undefined) return "no service listens there";
  const which = place.index === undefined ? "" : `.${place.index}`;
  return `service ${place.service.name}${which} listens at ${wanted.map(textOf).join(", ")}`;
}

function wantedBy({ protocol, endpoint }: Service["listen"][number]): Wanted {
  return { protocol, local: bindAddress(endpoint) };
}

function textOf({ protocol, local }: Wanted): string {
  return `${protocol}://${formatSocketAddress(local)}`;
}

function refuse(fd: number, name: string, socket: InheritedSocket | string, why: string): never {
  const what = typeof socket === "string" ? `descriptor ${fd}` : textOf(socket);
  throw new CommandError(`Cannot use the socket ${quote(name)} that was passed, ${what}: ${why}`);
}
