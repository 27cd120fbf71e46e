/**
 * A netlink socket: requests, dumps and batches, each sent and waited for in one synchronous call.
 *
 * The kernel carries a request out inside `send`, so nothing here blocks for long; a receive
 * timeout turns a protocol error into an error rather than a hang. A socket belongs to the network
 * namespace it was opened in, whatever namespace its thread enters later: open one for each.
 * Sources: netlink(7), net/netlink/af_netlink.c, nfnetlink_rcv_batch() in nfnetlink.c.
 */

import {
  AF_NETLINK,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_RAW,
  SOL_SOCKET,
} from "../constants.ts";
import { check, EAGAIN, EINTR, EMSGSIZE, ENOBUFS, SyscallError } from "../errno.ts";
import { sockaddr_nl } from "../layout.ts";
import { allocate, type NativeBuffer } from "../memory.ts";
import * as sys from "../sys.ts";
import type { Fd } from "../types.ts";
import { type Acknowledgement, decodeDone, decodeError } from "./acknowledgement.ts";
import {
  NETLINK_CAP_ACK,
  NETLINK_EXT_ACK,
  NETLINK_GET_STRICT_CHK,
  NLM_F_ACK,
  NLM_F_DUMP_INTR,
  NLM_F_MULTI,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_NOOP,
  NLMSG_OVERRUN,
  SOL_NETLINK,
} from "./constants.ts";
import { batchBegin, batchEnd } from "./nftables/batch.ts";
import {
  frame,
  HOST_ORDER,
  type Message,
  parseMessages,
  type ReceivedMessage,
  WireError,
} from "./wire.ts";

/** The kernel sends datagrams of up to 32 KiB; larger ones only when asked with a larger buffer. */
const receiveBytes = 64 * 1024;
const sendBytesInitial = 16 * 1024;
/** Bytes that the kernel may queue each way: whole batches and their errors. It doubles this. */
const queueBytesMax = 8 * 1024 * 1024;
const receiveTimeoutMs = 5000;
/** Requests whose acknowledgements fit into the default queue, where it cannot be enlarged. */
const requestsAtOnceMax = 100;
/** How often a dump that changed under way is started again. */
const dumpAttemptsMax = 100;

/** A request that the kernel refused: SyscallError with the kernel's own words. */
export class NetlinkError extends SyscallError {
  override readonly name = "NetlinkError";
  /** The kernel's text, if it gave one. */
  readonly kernelMessage: string | undefined;
  /** Where in the request the offending attribute is, counted from the message's header. */
  readonly offset: number | undefined;
  /** Which message of a batch was refused; 0 otherwise, -1 for the batch as a whole. */
  readonly index: number;

  constructor(operation: string, answer: Acknowledgement, index = 0) {
    const place = answer.offset ? `attribute at byte ${answer.offset}` : "";
    const missing = answer.missingType ? `attribute ${answer.missingType} is missing` : "";
    const words = [answer.message, place, missing].filter(Boolean).join(", ");
    super(operation, answer.errno, words === "" ? "" : `(${words})`);
    this.kernelMessage = answer.message;
    this.offset = answer.offset;
    this.index = index;
  }
}

// One buffer each way for all sockets of a thread: calls are synchronous and never nest.
const received = allocate(receiveBytes);
let outgoing: NativeBuffer = allocate(sendBytesInitial);
const kernelAddress = allocate(sockaddr_nl.size);
kernelAddress.view.setUint16(sockaddr_nl.nl_family, AF_NETLINK, HOST_ORDER);
const ownAddress = allocate(sockaddr_nl.size);

export class NetlinkSocket {
  readonly fd: Fd;
  /** The socket's address, which is also the owner of an nf_tables table made with it. */
  readonly portId: number;
  #sequence = 0;
  #isOpen = true;

  private constructor(fd: Fd, portId: number) {
    this.fd = fd;
    this.portId = portId;
  }

  /**
   * Opens a socket of NETLINK_ROUTE or NETLINK_NETFILTER in the thread's current namespace.
   * @throws SyscallError
   */
  static open(protocol: number): NetlinkSocket {
    const fd = check(
      sys.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol),
      "socket",
      "netlink",
    );
    try {
      configure(fd);
      // Connected to the kernel: no other process can put a message in this socket's queue.
      check(sys.connect(fd, kernelAddress.address, sockaddr_nl.size), "connect", "netlink");
      check(sys.getsockname(fd, ownAddress.address, sockaddr_nl.size), "getsockname", "netlink");
    } catch (error) {
      sys.close(fd);
      throw error;
    }
    return new NetlinkSocket(fd as Fd, ownAddress.view.getUint32(sockaddr_nl.nl_pid, HOST_ORDER));
  }

  /**
   * A socket that another process has opened and lent or given to this one; it is owned from here
   * on. Only one of both may use it at a time. @throws SyscallError
   */
  static adopt(fd: number): NetlinkSocket {
    check(sys.getsockname(fd, ownAddress.address, sockaddr_nl.size), "getsockname", "netlink");
    const portId = ownAddress.view.getUint32(sockaddr_nl.nl_pid, HOST_ORDER);
    const socket = new NetlinkSocket(fd as Fd, portId);
    // Numbers that the other one has not used: its replies are not mistaken for ours.
    socket.#sequence = Math.floor(Math.random() * 2 ** 32);
    return socket;
  }

  /** Drops what is queued: replies to another process that has ended before it read them. */
  drain(): void {
    while (this.#receiveQueued().length > 0);
    this.#sequence = (this.#sequence + 2 ** 31) >>> 0;
  }

  /**
   * Sends a request and waits until it has been carried out. Returns the messages that came before
   * the acknowledgement: none for most, the object for a look-up, the new object with NLM_F_ECHO.
   * Their bodies are copies.
   * @throws NetlinkError when the kernel refuses, SyscallError when the socket fails, WireError
   */
  request(message: Message): ReceivedMessage[] {
    const sequence = this.#nextSequence();
    this.#send(frame(message, NLM_F_REQUEST | NLM_F_ACK, sequence), message.operation);
    const replies: ReceivedMessage[] = [];
    for (;;) {
      for (const reply of this.#receive(message.operation)) {
        if (reply.sequence !== sequence) continue;
        if (reply.type !== NLMSG_ERROR) {
          replies.push(copyOf(reply));
          continue;
        }
        const answer = decodeError(reply);
        if (answer.errno !== 0) throw new NetlinkError(message.operation, answer);
        return replies;
      }
    }
  }

  /**
   * Sends requests that do not depend on each other, many in one call, and waits for all. Returns
   * for each the errno with which the kernel refused it, 0 if it was carried out.
   * @throws SyscallError when the socket fails, WireError
   */
  requestEach(messages: readonly Message[]): number[] {
    const errnos: number[] = [];
    for (let at = 0; at < messages.length; at += requestsAtOnceMax) {
      errnos.push(...this.#requestTogether(messages.slice(at, at + requestsAtOnceMax)));
    }
    return errnos;
  }

  /**
   * Sends a look-up and returns the one object it finds.
   * @throws NetlinkError, SyscallError, WireError
   */
  get<T>(message: Message, decode: (body: Uint8Array) => T): T {
    const [reply] = this.request(message);
    if (reply === undefined) throw new WireError(`no answer to ${message.operation}`);
    return decode(reply.body);
  }

  /**
   * Reads all objects that a dump lists. A dump that the kernel marks as inconsistent, because
   * something changed meanwhile, is read again.
   * @throws NetlinkError, SyscallError, WireError
   */
  dump<T>(message: Message, decode: (body: Uint8Array) => T): T[] {
    for (let attempt = 1; attempt <= dumpAttemptsMax; attempt++) {
      const objects = this.#dumpOnce(message, decode);
      if (objects !== undefined) return objects;
    }
    throw new NetlinkError(message.operation, {
      errno: EINTR,
      message: `changed under way ${dumpAttemptsMax} times`,
    });
  }

  /**
   * Sends nf_tables messages as one batch, which the kernel carries out all or none. Only the last
   * is acknowledged, since an acknowledgement for each overruns the receive queue; what fails is
   * always reported. Returns what NLM_F_ECHO asked for.
   * @throws NetlinkError for the first message that was refused, SyscallError, WireError
   */
  batch(messages: readonly Message[]): ReceivedMessage[] {
    const last = messages.at(-1);
    if (last === undefined) return [];
    const first = this.#nextSequence();
    const frames = [frame(batchBegin, NLM_F_REQUEST, first)];
    messages.forEach((message, index) => {
      const isLast = index === messages.length - 1;
      const added = isLast ? NLM_F_REQUEST | NLM_F_ACK : NLM_F_REQUEST;
      frames.push(frame(message, added, this.#nextSequence()));
    });
    const lastSequence = this.#sequence;
    frames.push(frame(batchEnd, NLM_F_REQUEST, this.#nextSequence()));
    this.#send(concatenate(frames), last.operation);
    return this.#batchAnswers(messages, first, lastSequence);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    sys.close(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #requestTogether(messages: readonly Message[]): number[] {
    const first = this.#sequence + 1;
    const flags = NLM_F_REQUEST | NLM_F_ACK;
    const frames = messages.map((message) => frame(message, flags, this.#nextSequence()));
    const operation = messages[0]?.operation ?? "";
    this.#send(concatenate(frames), operation);
    const errnos: number[] = messages.map(() => -1);
    for (let left = messages.length; left > 0; ) {
      for (const reply of this.#receive(operation)) {
        const index = reply.sequence - first;
        if (reply.type !== NLMSG_ERROR || errnos[index] !== -1) continue;
        errnos[index] = decodeError(reply).errno;
        left--;
      }
    }
    return errnos;
  }

  #dumpOnce<T>(message: Message, decode: (body: Uint8Array) => T): T[] | undefined {
    const sequence = this.#nextSequence();
    this.#send(frame(message, NLM_F_REQUEST, sequence), message.operation);
    const objects: T[] = [];
    let isConsistent = true;
    for (;;) {
      for (const reply of this.#receive(message.operation)) {
        if (reply.sequence !== sequence) continue;
        if (reply.flags & NLM_F_DUMP_INTR) isConsistent = false;
        if (reply.type === NLMSG_DONE || reply.type === NLMSG_ERROR) {
          const answer = reply.type === NLMSG_DONE ? decodeDone(reply) : decodeError(reply);
          if (answer.errno !== 0) throw new NetlinkError(message.operation, answer);
          return isConsistent ? objects : undefined;
        }
        objects.push(decode(reply.body));
        if ((reply.flags & NLM_F_MULTI) === 0) return objects;
      }
    }
  }

  #batchAnswers(messages: readonly Message[], first: number, last: number): ReceivedMessage[] {
    const echoes: ReceivedMessage[] = [];
    let failure: NetlinkError | undefined;
    // A refusal of the batch as a whole carries the sequence number of its first message, and
    // then there may be no acknowledgement of the last: what is left is already in the queue.
    for (let isWhole = false; ; ) {
      const replies = isWhole ? this.#receiveQueued() : this.#receive("batch");
      if (replies.length === 0 && failure !== undefined) throw failure;
      for (const reply of replies) {
        const index = reply.sequence - first - 1;
        if (index < -1 || reply.sequence > last) continue;
        if (reply.type !== NLMSG_ERROR) {
          echoes.push(copyOf(reply));
          continue;
        }
        const answer = decodeError(reply);
        const operation = messages[index]?.operation ?? "batch";
        if (answer.errno !== 0) failure ??= new NetlinkError(operation, answer, index);
        if (index === -1) isWhole = failure !== undefined;
        if (reply.sequence !== last) continue;
        if (failure !== undefined) throw failure;
        return echoes;
      }
    }
  }

  #nextSequence(): number {
    this.#sequence = (this.#sequence + 1) >>> 0;
    return this.#sequence;
  }

  #send(bytes: Uint8Array, operation: string): void {
    if (bytes.length > 2 * queueBytesMax) throw new SyscallError("send", EMSGSIZE, operation);
    if (bytes.length > outgoing.size) outgoing = allocate(2 ** Math.ceil(Math.log2(bytes.length)));
    outgoing.bytes.set(bytes);
    for (;;) {
      const sent = sys.send(this.fd, outgoing.address, bytes.length, MSG_NOSIGNAL);
      if (sent === -EINTR) continue;
      check(sent, "send", operation);
      return;
    }
  }

  /** What is queued; waits for at least one datagram. The bodies are views until the next call. */
  #receive(operation: string): ReceivedMessage[] {
    for (;;) {
      const length = sys.recv(this.fd, received.address, received.size, MSG_TRUNC);
      if (length === -EINTR) continue;
      check(length, "recv", operation);
      return parse(length, operation);
    }
  }

  #receiveQueued(): ReceivedMessage[] {
    const length = sys.recv(this.fd, received.address, received.size, MSG_TRUNC | MSG_DONTWAIT);
    if (length === -EAGAIN) return [];
    return parse(check(length, "recv", "netlink"), "batch");
  }
}

function parse(length: number, operation: string): ReceivedMessage[] {
  if (length > received.size) {
    throw new SyscallError("recv", EMSGSIZE, `${operation} (${length} bytes)`);
  }
  const messages = parseMessages(received.bytes.subarray(0, length));
  if (messages.some(({ type }) => type === NLMSG_OVERRUN)) {
    throw new SyscallError("recv", ENOBUFS, operation);
  }
  return messages.filter(({ type }) => type !== NLMSG_NOOP);
}

function configure(fd: number): void {
  check(sys.setReceiveTimeoutMs(fd, receiveTimeoutMs), "setsockopt", "SO_RCVTIMEO");
  check(sys.setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1), "setsockopt", "NETLINK_EXT_ACK");
  check(sys.setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1), "setsockopt", "NETLINK_CAP_ACK");
  // From Linux 4.20 on; without it a dump of one table lists all, which callers can live with.
  sys.setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
  // The forced sizes need CAP_NET_ADMIN in the first user namespace; the others are capped by
  // net.core.wmem_max and rmem_max, which is enough for batches of some 200 KiB.
  if (sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, queueBytesMax) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, queueBytesMax);
  }
  if (sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, queueBytesMax) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, queueBytesMax);
  }
}

function copyOf(message: ReceivedMessage): ReceivedMessage {
  return { ...message, body: message.body.slice() };
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
