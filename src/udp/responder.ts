/**
 * The UDP side of `listen`: each datagram is answered from the address that it was sent to.
 *
 * The original destination comes as a control message. If its port is the socket's own, the
 * answer leaves through the same socket with that address as IP_PKTINFO source, which a
 * transparent socket may name freely. If TPROXY has changed the port, a transparent socket is
 * bound to the original destination for the one answer; it is not connected, so the kernel's
 * TPROXY lookup never gives it a datagram that belongs to the listener. Where another program has
 * that port on every address, the answer is a raw packet.
 */

import {
  AF_INET,
  AF_INET6,
  EPOLLIN,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../../ffi/constants.ts";
import { EADDRINUSE, EAGAIN, EINTR, errnoName, errnoText } from "../../ffi/errno.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import { Message } from "../../ffi/message.ts";
import { encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import type { Service, WorkerContext } from "../engine/context.ts";
import { datagramBytesMax, datagramsPerTurn } from "../engine/limits.ts";
import type { Handler } from "../engine/loop.ts";
import type { RespondTask, ServedSocket } from "../engine/protocol.ts";
import type { Quota } from "../engine/quota.ts";
import { Counter } from "../engine/shared.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { RawSender } from "./raw-sender.ts";
import { setTransparent } from "./transparent.ts";

export class UdpService implements Service {
  private readonly context: WorkerContext;
  private readonly task: RespondTask;
  private readonly quota: Quota;
  private readonly message = new Message(allocate(datagramBytesMax));
  private readonly reply: Message | undefined;
  private readonly name: NativeBuffer = allocate(32);
  private readonly warned = new Set<string>();
  private sockets: UdpSocket[] = [];
  private raw: RawSender | undefined;

  constructor(context: WorkerContext, task: RespondTask, quota: Quota) {
    this.context = context;
    this.task = task;
    this.quota = quota;
    if (task.answer.kind === "reply") this.reply = replyMessage(task.answer.bytes);
    for (const socket of task.sockets) {
      if (socket.protocol === "udp") this.sockets.push(new UdpSocket(this, context, socket));
    }
  }

  stop(): void {
    for (const socket of this.sockets) socket.close();
    this.sockets = [];
    this.raw?.close();
  }

  /** Receives and serves one datagram; false when there is none. */
  serve(socket: ServedSocket): boolean {
    const { message } = this;
    message.prepareReceive();
    const count = sys.recvmsg(socket.fd, message.address, MSG_DONTWAIT);
    if (count === -EAGAIN) return false;
    // A queued error of an earlier answer (ICMP) is told by the next call; it ends nothing here.
    if (count < 0) return count === -EINTR || this.warn("recvmsg", -count);
    const client = message.sender();
    if (client === undefined) return true;
    const destination = message.originalDestination();
    const { shared } = this.context;
    shared.count(Counter.datagrams, 1);
    shared.count(Counter.received, count);
    const bytes = this.task.report ? message.payload.bytes.slice(0, count) : undefined;
    if (message.flags() & MSG_TRUNC) this.warn("recvmsg: a datagram was cut short", 0);
    const sent = this.answer(socket, client, destination, count);
    if (bytes !== undefined) {
      const local = destination === undefined ? "unknown" : formatSocketAddress(destination);
      this.context.report({
        kind: "datagram",
        client: formatSocketAddress(client),
        local,
        bytes,
        sent,
      });
    }
    this.quota.spend();
    return this.sockets.length > 0;
  }

  /** Bytes sent back to `client`, 0 if there was no answer to give or it could not be sent. */
  private answer(
    socket: ServedSocket,
    client: SocketAddress,
    destination: SocketAddress | undefined,
    count: number,
  ): number {
    if (this.task.answer.kind === "discard") return 0;
    const message = this.reply ?? this.message;
    const length = this.task.answer.kind === "reply" ? this.task.answer.bytes.length : count;
    if (destination !== undefined && destination.port !== socket.port) {
      return this.answerFrom(destination, client, message, length);
    }
    message.prepareSend(socket.domain, length, client, destination?.address);
    const sent = sys.sendmsg(socket.fd, message.address, MSG_DONTWAIT | MSG_NOSIGNAL);
    return this.sent("sendmsg", sent);
  }

  /** Answers through a socket of its own that is bound to `source`, a port that is not ours. */
  private answerFrom(
    source: SocketAddress,
    client: SocketAddress,
    message: Message,
    length: number,
  ): number {
    const domain = source.address.length === 4 ? AF_INET : AF_INET6;
    const fd = sys.socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return this.sent("socket", fd);
    sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    setTransparent(fd, domain);
    const nameLength = encodeSockaddr(this.name.view, 0, source.address, source.port);
    const bound = sys.bind(fd, this.name.address, nameLength);
    message.prepareSend(domain, length, client);
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const result = bound < 0 ? bound : sys.sendmsg(fd, message.address, flags);
    sys.close(fd);
    if (bound === -EADDRINUSE) return this.answerRaw(source, client, message, length);
    return this.sent(bound < 0 ? `bind ${formatSocketAddress(source)}` : "sendmsg", result);
  }

  /** Answers without a bound socket: another program's has the port on every address. */
  private answerRaw(
    source: SocketAddress,
    client: SocketAddress,
    message: Message,
    length: number,
  ): number {
    this.warn(`port ${source.port} is another program's: answers leave as raw packets`, 0);
    this.raw ??= new RawSender();
    return this.sent("raw sendmsg", this.raw.send(source, client, message.payload, 0, length));
  }

  private sent(call: string, result: number): number {
    if (result >= 0) {
      this.context.shared.count(Counter.sent, result);
      return result;
    }
    this.context.shared.count(Counter.failed, 1);
    this.warn(call, -result);
    return 0;
  }

  /** Says it once for each kind of failure. Answers true: the socket is served on. */
  private warn(call: string, errno: number): true {
    const text = errno === 0 ? call : `${call}: ${errnoText(errno)} (${errnoName(errno)})`;
    if (!this.warned.has(text)) {
      this.warned.add(text);
      this.context.report({ kind: "warning", text });
    }
    return true;
  }
}

class UdpSocket implements Handler {
  private readonly service: UdpService;
  private readonly context: WorkerContext;
  private readonly socket: ServedSocket;

  constructor(service: UdpService, context: WorkerContext, socket: ServedSocket) {
    this.service = service;
    this.context = context;
    this.socket = socket;
    context.loop.add(socket.fd as Fd, EPOLLIN, this);
  }

  onReady(): void {
    for (let turn = 0; turn < datagramsPerTurn; turn++) {
      if (!this.service.serve(this.socket)) return;
    }
  }

  close(): void {
    this.context.loop.close(this.socket.fd as Fd);
  }
}

function replyMessage(bytes: Uint8Array): Message {
  // An empty reply is an empty datagram; its payload is still one byte of memory.
  const payload = allocate(Math.max(bytes.length, 1));
  payload.bytes.set(bytes);
  return new Message(payload);
}
