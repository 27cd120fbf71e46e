/** Opens the sockets that a user asked for, and explains it when the kernel refuses one. */

import { SO_DOMAIN, SOL_SOCKET } from "../../ffi/constants.ts";
import { SyscallError } from "../../ffi/errno.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { gatherFacts } from "../diagnose/facts.ts";
import { explainRefusal } from "../diagnose/refusal.ts";
import type { ServedSocket } from "../engine/protocol.ts";
import {
  bindSocket,
  listenOn,
  localName,
  type SocketOptions,
  startConnect,
} from "../engine/sockets.ts";
import { formatBytes } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { CommandError } from "./failure.ts";

/** An open socket and where it is bound, the port that the kernel chose included. */
export interface OpenSocket {
  readonly fd: Fd;
  readonly protocol: "tcp" | "udp";
  readonly local: SocketAddress;
}

/** What to do with a socket once it is bound. */
export type Purpose =
  | { readonly kind: "receive" }
  | { readonly kind: "send"; readonly to: SocketAddress };

/**
 * Binds a socket and makes it listen (TCP) or connects it, as `purpose` says.
 * @throws CommandError that says why the kernel refused
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

/** The socket as a Worker gets it. */
export function served({ fd, protocol, local }: OpenSocket): ServedSocket {
  return { fd, protocol, port: local.port, domain: sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN) };
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
  return new CommandError(explainRefusal(error, attempt, gatherFacts(local.address)));
}
