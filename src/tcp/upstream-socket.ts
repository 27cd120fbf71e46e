/** The socket towards an upstream, and what its errors mean. */

import { EADDRNOTAVAIL, ENOBUFS, ENOMEM, EPERM, errnoName, errnoText } from "../../ffi/errno.ts";
import type { Fd } from "../../ffi/types.ts";
import type { ForwardTask } from "../engine/protocol.ts";
import { connectSocket } from "../engine/sockets.ts";
import type { Choice } from "../forward/route-choice.ts";

/** Whether connect(2) failed for want of something here: a port, memory, the firewall's leave. */
export function isOwnFault(errno: number): boolean {
  return errno === EADDRNOTAVAIL || errno === EPERM || errno === ENOBUFS || errno === ENOMEM;
}

/** A socket that is on its way to the upstream. @throws SyscallError */
export function openUpstream({ source, upstream }: Choice, task: ForwardTask): Fd {
  const options = {
    protocol: "tcp",
    transparent: true,
    mark: task.mark,
    portAtConnect: source?.port === 0,
    // Nagle's algorithm would hold back a message until the one before is acknowledged: 40 ms.
    noDelay: true,
    // One packet less, where the client speaks first: its bytes acknowledge the SYN-ACK.
    delaysAck: true,
    keepAliveMs: task.keepAliveMs,
    userTimeoutMs: task.userTimeoutMs,
  } as const;
  return connectSocket(options, upstream, source && { ...source, scopeId: 0 });
}

/** An error that ended a connection, as the access log says it. */
export function resetWord(errno: number): string {
  const name = errnoName(errno);
  return name === "ECONNRESET" || name === "EPIPE" ? "reset" : `${errnoText(errno)} (${name})`;
}
