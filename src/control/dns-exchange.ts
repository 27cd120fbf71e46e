/**
 * One question to one DNS server, over a socket of our own: it can have a mark (SO_MARK), so that a
 * capture of what this host sends leaves it alone. Nothing else of this thread waits for an answer,
 * and look-ups are rare: the socket is polled.
 */

import { EAGAIN, EINTR, ENOTCONN, errnoText, SyscallError } from "../../ffi/errno.ts";
import { allocate } from "../../ffi/memory.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Mark } from "../../ffi/types.ts";
import { bindSocket, startConnect } from "../engine/sockets.ts";
import { encodeQuestion, type Question, type Reply, readReply } from "../proto/dns.ts";

/** How a question is asked. */
export interface Asking {
  readonly protocol: "tcp" | "udp";
  readonly mark: Mark | undefined;
  /** On the monotonic clock (ms); others may bring it forward meanwhile. */
  readonly deadline: { at: number };
}

const pauseMsMin = 1;
const pauseMsMax = 20;
/** Datagrams that are looked at in one turn: anybody may send some who guesses the port. */
const datagramsPerTurn = 16;

const buffer = allocate(65_537);

/** Returns the answer of `server`; an error is a failed reply with its reason. */
export async function exchange(
  server: SocketAddress,
  question: Question,
  asking: Asking,
): Promise<Reply> {
  let fd: Fd | undefined;
  try {
    const { protocol, mark } = asking;
    const any = { address: new Uint8Array(server.address.length), port: 0, scopeId: 0 };
    fd = bindSocket({ protocol, transparent: false, mark, portAtConnect: protocol === "tcp" }, any);
    startConnect(fd, server);
    const step = protocol === "udp" ? overUdp(fd, question) : overTcp(fd, question);
    return await poll(step, asking.deadline);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return failed(error.message);
  } finally {
    if (fd !== undefined) sys.close(fd);
  }
}

type Step = () => Reply | undefined;

async function poll(step: Step, deadline: Asking["deadline"]): Promise<Reply> {
  for (let pause = pauseMsMin; ; pause = Math.min(2 * pause, pauseMsMax)) {
    const reply = step();
    if (reply !== undefined) return reply;
    if (performance.now() >= deadline.at) return failed("no answer");
    await Bun.sleep(pause);
  }
}

function overUdp(fd: Fd, question: Question): Step {
  const query = encodeQuestion(question);
  buffer.bytes.set(query);
  const sent = sys.send(fd, buffer.address, query.length, 0);
  if (sent < 0) throw new SyscallError("send", -sent);
  return () => {
    for (let i = 0; i < datagramsPerTurn; i++) {
      const count = sys.recv(fd, buffer.address, buffer.size, 0);
      if (count === -EAGAIN || count === -EINTR) return undefined;
      if (count < 0) return failed(errnoText(-count));
      const reply = readReply(buffer.bytes.slice(0, count), question);
      if (reply !== undefined) return reply;
    }
    return undefined;
  };
}

function overTcp(fd: Fd, question: Question): Step {
  const query = encodeQuestion(question);
  const message = new Uint8Array([query.length >> 8, query.length & 0xff, ...query]);
  let sent = 0;
  let received = new Uint8Array(0);
  return () => {
    if (sent < message.length) {
      buffer.bytes.set(message.subarray(sent));
      const count = sys.send(fd, buffer.address, message.length - sent, 0);
      if (isPending(count)) return undefined;
      if (count < 0) return failed(errnoText(-count));
      sent += count;
    }
    const count = sys.recv(fd, buffer.address, buffer.size, 0);
    if (isPending(count)) return undefined;
    if (count <= 0) return failed(count < 0 ? errnoText(-count) : "the connection was closed");
    received = new Uint8Array([...received, ...buffer.bytes.subarray(0, count)]);
    const [high = 0, low = 0] = received;
    const length = 256 * high + low;
    if (received.length < 2 + length || received.length < 2) return undefined;
    return readReply(received.subarray(2, 2 + length), question) ?? failed("not an answer");
  };
}

function isPending(result: number): boolean {
  return result === -EAGAIN || result === -EINTR || result === -ENOTCONN;
}

function failed(reason: string): Reply {
  return { kind: "failed", reason };
}
