/** The demo's own clients: non-blocking sockets of a namespace, looked at from the main thread. */

import { MSG_DONTWAIT, MSG_NOSIGNAL, SO_ERROR, SOL_SOCKET } from "../../ffi/constants.ts";
import { check, EAGAIN, EINTR, ETIMEDOUT, SyscallError } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { bindSocket, localName, startConnect } from "../engine/sockets.ts";
import type { Address } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import type { Host } from "./topology-builder.ts";
import { waitFor } from "./wait.ts";

/** Which connection to make, and how patiently. */
export interface Request {
  readonly to: Address;
  readonly port: number;
  /** Where to bind first; any address otherwise. */
  readonly from?: Address;
  /** SO_BINDTODEVICE. */
  readonly device?: string;
  /** How long to wait for the connection. */
  readonly timeoutMs: number;
}

/** How it went. */
export interface Answered {
  readonly connected: boolean;
  /** Why not, otherwise 0. */
  readonly errno: number;
  /** The client's own address, as `192.0.2.2:39435`. */
  readonly local: string;
  /** The bytes received until the other side closed. */
  readonly text: string;
}

const buffer = allocate(4096);
const peerName = allocate(sockaddr_storage.size);
/** How long the answer to the request may take, once connected. */
const answerTimeoutMs = 3_000;

/**
 * Connects from the host, sends an HTTP request and reads to the end.
 * @throws Interrupted, and SyscallError for what is no matter of the network
 */
export async function ask(host: Host, question: Request, signal: AbortSignal): Promise<Answered> {
  const { to, port, from, device } = question;
  const any = new Uint8Array(to.bytes.length);
  const fd = host.run(() =>
    bindSocket(
      { protocol: "tcp", transparent: false, device, portAtConnect: true },
      { address: from?.bytes ?? any, port: 0, scopeId: 0 },
    ),
  );
  try {
    const errno = await connect(fd, { address: to.bytes, port, scopeId: 0 }, question, signal);
    if (errno !== 0) return { connected: false, errno, local: "", text: "" };
    const local = formatSocketAddress(localName(fd));
    send(fd, `GET / HTTP/1.1\r\nHost: ${formatHost(to)}\r\n\r\n`);
    return { connected: true, errno: 0, local, text: await receiveAll(fd, signal) };
  } finally {
    sys.close(fd);
  }
}

/** One datagram from a bound socket. @throws SyscallError */
export function sendDatagram(fd: Fd, to: Address, port: number, text: string): void {
  startConnect(fd, { address: to.bytes, port, scopeId: 0 });
  send(fd, text);
}

/** 0, or why there is no connection: ETIMEDOUT if nobody has answered in time. */
async function connect(
  fd: Fd,
  remote: Parameters<typeof startConnect>[1],
  { timeoutMs }: Request,
  signal: AbortSignal,
): Promise<number> {
  try {
    startConnect(fd, remote);
  } catch (error) {
    if (error instanceof SyscallError) return error.errno;
    throw error;
  }
  const state = () => {
    const error = sys.getsockopt(fd, SOL_SOCKET, SO_ERROR);
    if (error !== 0) return Math.abs(error);
    return sys.getpeername(fd, peerName.address, peerName.size) < 0 ? undefined : 0;
  };
  return (await waitFor(state, timeoutMs, signal)) ?? ETIMEDOUT;
}

async function receiveAll(fd: Fd, signal: AbortSignal): Promise<string> {
  let text = "";
  await waitFor(
    () => {
      for (;;) {
        const count = sys.recv(fd, buffer.address, buffer.size, MSG_DONTWAIT);
        if (count === -EAGAIN || count === -EINTR) return undefined;
        if (count <= 0) return true;
        text += Buffer.from(buffer.bytes.subarray(0, count)).toString("latin1");
      }
    },
    answerTimeoutMs,
    signal,
  );
  return text;
}

function send(fd: Fd, text: string): void {
  const { written } = new TextEncoder().encodeInto(text, buffer.bytes);
  check(sys.send(fd, buffer.address, written, MSG_NOSIGNAL | MSG_DONTWAIT), "send");
}

/** For the Host header: IPv6 in brackets. */
function formatHost({ bytes }: Address): string {
  return formatSocketAddress({ address: bytes, port: 80, scopeId: 0 }).replace(/:80$/, "");
}
