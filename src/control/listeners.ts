/** Opens the sockets that a user asked for, and explains it when the kernel refuses one. */

import { fstatSync } from "node:fs";
import { SO_DOMAIN, SOL_SOCKET } from "../../ffi/constants.ts";
import { EADDRINUSE, SyscallError } from "../../ffi/errno.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import type { Listener } from "../config/service.ts";
import { explainRefusal } from "../diagnose/explain/refusal.ts";
import { gatherFacts } from "../diagnose/snapshot/refusal-facts.ts";
import {
  adoptSocket,
  allowSharing,
  bindSocket,
  duplicate,
  listenOn,
  localName,
  type SocketOptions,
  startConnect,
} from "../engine/sockets.ts";
import { CommandError } from "../errors.ts";
import { formatBytes } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import type { ServedSocket } from "../workers/protocol.ts";
import { bindAddress } from "./endpoints.ts";
import type { InheritedSockets } from "./inherited-sockets.ts";
import type { LeavingSockets } from "./leaving-sockets.ts";
import type { User } from "./passwd.ts";

/** An open socket and where it is bound, the port that the kernel chose included. */
export interface OpenSocket {
  readonly fd: Fd;
  readonly protocol: "tcp" | "udp";
  readonly local: SocketAddress;
}

/** The use of a socket once it is bound. */
export type Purpose =
  | { readonly kind: "receive" }
  | { readonly kind: "send"; readonly to: SocketAddress };

/**
 * Binds a socket and makes it listen (TCP) or connects it, as `purpose` says.
 * @throws CommandError with the reason why the kernel rejected
 */
export function openSocket(
  options: SocketOptions,
  local: SocketAddress,
  purpose: Purpose = { kind: "receive" },
): OpenSocket {
  let fd: Fd | undefined;
  try {
    fd = bindSocket(options, local);
    if (purpose.kind === "send") startConnect(fd, purpose.to);
    else if (options.protocol === "tcp") listenOn(fd);
    return { fd, protocol: options.protocol, local: localName(fd) };
  } catch (error) {
    if (fd !== undefined) sys.close(fd);
    if (error instanceof SyscallError) throw refusal(error, options, local, purpose);
    throw error;
  }
}

interface SharedSocketOptions extends Omit<SocketOptions, "protocol" | "reusePort" | "owner"> {
  /** Answers may need sockets of the same port. */
  readonly hasSessions: boolean;
  /** Who this process goes on as; undefined: as who it is. */
  readonly user: User | undefined;
  /** Sockets that were there before this process; a listener takes those with its address. */
  readonly inherited?: InheritedSockets | undefined;
  /** Sockets of ours that are about to be closed; listeners may need their ports. */
  readonly leaving?: LeavingSockets | undefined;
}

/** A user that no program runs as, among numbers that are given to nobody; one for a process. */
const nobodyElse = 0xc000_0000 + process.pid;

/**
 * For each of `workers` Workers a socket at every wanted address; several share its traffic. The
 * first one is bound alone, so that another process that has the address is found out, whatever its
 * options are; then it lets the others join (SO_REUSEPORT). UDP listeners that have sessions
 * (`hasSessions`) let those join, for good: to change that in between would be a moment for others.
 * The kernel lets join what has the same owner. Sockets of sessions are made by the user that we go
 * on as; other listeners that share an address are owned by nobody else, where we may give sockets
 * away, so that no program can join them, not even one of the same user.
 *
 * Inherited sockets go to the Workers in turn, however many there are. A Worker that gets none
 * joins them. Where the kernel refuses that, as for a socket of another user, it shares one of TCP;
 * of UDP it has none, for a client's datagrams have to come to one Worker.
 * @throws CommandError with the reason why the kernel rejected one; then none is open
 */
export function openForWorkers(
  workers: number,
  wanted: readonly Listener[],
  { hasSessions, user, inherited, leaving, ...options }: SharedSocketOptions,
): OpenSocket[][] {
  const sets: OpenSocket[][] = Array.from({ length: workers }, () => []);
  const open = ({ protocol, endpoint }: Listener) => {
    let local = bindAddress(endpoint);
    const isJoined = hasSessions && protocol === "udp";
    const isShared = isJoined || workers > 1;
    const owner = isJoined ? user?.uid : isShared ? nobodyElse : undefined;
    const own = { ...options, protocol, owner: isJoined ? owner : undefined };
    if (leaving?.isInTheWay({ protocol, local }) === true) {
      const bound = explained({ ...options, protocol }, local, (wanted) =>
        leaving.bindBeside(workers, wanted, local, isShared),
      );
      for (const [worker, set] of sets.entries()) set.push(bound[worker] as OpenSocket);
      return;
    }
    const found = inherited?.take({ protocol, local }) ?? [];
    const adopted = found.map(({ fd }) => adopt(fd, own, isShared));
    for (const [worker, set] of sets.entries()) {
      const mine = adopted.filter((_, index) => index % workers === worker);
      set.push(...mine);
      if (mine.length > 0) continue;
      const joined = adopted[worker % Math.max(1, adopted.length)];
      if (joined !== undefined) {
        set.push(...join(joined, own));
        continue;
      }
      const socket = openSocket({ ...options, protocol, reusePort: worker > 0, owner }, local);
      set.push(socket);
      if (isShared) allowSharing(socket.fd);
      // The port that the kernel chose for the first Worker is everybody's.
      local = { ...local, port: socket.local.port };
    }
  };
  try {
    for (const listener of wanted) open(listener);
    return sets;
  } catch (error) {
    closeSockets(sets);
    throw error;
  }
}

/** Closes sockets that no Worker has. */
export function closeSockets(sets: readonly (readonly OpenSocket[])[]): void {
  for (const { fd } of sets.flat()) sys.close(fd);
}

function adopt(fd: Fd, options: SocketOptions, isShared: boolean): OpenSocket {
  const local = localName(fd);
  explained(options, local, (own) => adoptSocket(fd, own));
  if (isShared) allowSharing(fd);
  return { fd, protocol: options.protocol, local };
}

/** Calls `work`. @throws CommandError with the reason why the kernel rejected something */
function explained<T>(
  options: SocketOptions,
  local: SocketAddress,
  work: (options: SocketOptions) => T,
): T {
  try {
    return work(options);
  } catch (error) {
    if (error instanceof SyscallError) throw refusal(error, options, local, { kind: "receive" });
    throw error;
  }
}

/** What a Worker gets for which there is no inherited socket: at most one. */
function join({ fd, protocol, local }: OpenSocket, options: SocketOptions): OpenSocket[] {
  const owner = fstatSync(fd).uid;
  try {
    const socket = {
      fd: bindSocket({ ...options, owner, reusePort: true }, local),
      protocol,
      local,
    };
    if (protocol === "tcp") listenOn(socket.fd);
    return [socket];
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return protocol === "tcp" ? [{ fd: duplicate(fd), protocol, local }] : [];
  }
}

/** The socket as a Worker gets it. */
export function served({ fd, protocol, local }: OpenSocket): ServedSocket {
  const { address, port } = local;
  return { fd, protocol, address, port, domain: sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN) };
}

/** The error of a refused socket operation, explained for the user. */
export function refusal(
  error: SyscallError,
  options: SocketOptions,
  local: SocketAddress,
  purpose: Purpose,
): CommandError {
  const remote = purpose.kind === "send" ? formatSocketAddress(purpose.to) : undefined;
  const verb = error.call === "connect" || error.call === "send" ? "reach" : "bind";
  const subject = verb === "reach" && remote !== undefined ? remote : formatSocketAddress(local);
  const attempt = {
    what: `${verb} ${options.protocol}://${subject}`,
    address: formatBytes(local.address),
    port: local.port,
    isV6: local.address.length === 16,
    transparent: options.transparent,
    freebind: options.freebind === true,
    device: options.device,
    remote,
  };
  const { protocol } = options;
  const taken = error.errno === EADDRINUSE ? { protocol, port: local.port } : undefined;
  return new CommandError(explainRefusal(error, attempt, gatherFacts(local.address, taken)));
}
