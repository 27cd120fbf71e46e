/** The TCP side of `listen`: listeners, their connections, and the bounds around both. */

import { EPOLLIN } from "../../ffi/constants.ts";
import { errnoName, errnoText } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import { decodeSockaddr } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Address, Fd } from "../../ffi/types.ts";
import type { Service, WorkerContext } from "../engine/context.ts";
import { receiveBytes } from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import type { Answer, CloseReason, RespondTask } from "../engine/protocol.ts";
import type { Quota } from "../engine/quota.ts";
import { Counter, type SharedState } from "../engine/shared.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { Listener, type ListenerOwner, pauseAll, resumeAll } from "./listener.ts";
import { Responder, type ResponderOwner } from "./responder.ts";

export class TcpService implements Service, ListenerOwner, ResponderOwner {
  readonly loop: EventLoop;
  readonly counters: SharedState;
  readonly answer: Answer;
  readonly idleTimeoutMs: number;
  readonly receiveBuffer = allocate(receiveBytes);
  readonly reply: { readonly address: Address; readonly size: number };
  private readonly task: RespondTask;
  private readonly context: WorkerContext;
  private readonly quota: Quota;
  private readonly onClosed: () => void;
  readonly peerName = allocate(sockaddr_storage.size);
  private readonly localName = allocate(sockaddr_storage.size);
  private readonly connections = new Set<Responder>();
  private listeners: Listener[] = [];
  private accepts = 0;

  /** `onClosed` is called after each connection's end. */
  constructor(context: WorkerContext, task: RespondTask, quota: Quota, onClosed: () => void) {
    this.context = context;
    this.loop = context.loop;
    this.counters = context.shared;
    this.task = task;
    this.quota = quota;
    this.onClosed = onClosed;
    this.answer = task.answer;
    this.idleTimeoutMs = task.idleTimeoutMs;
    this.reply = task.answer.kind === "reply" ? load(task.answer.bytes) : NO_REPLY;
    for (const socket of task.sockets) {
      if (socket.protocol === "tcp") this.listeners.push(new Listener(this, socket.fd as Fd));
    }
  }

  accepted(fd: Fd): void {
    const id = ++this.accepts;
    const client = endpoint(this.peerName);
    // A transparent listener's connection has the address that its client asked for.
    sys.getsockname(fd, this.localName.address, this.localName.size);
    const local = endpoint(this.localName);
    const connection = new Responder(this, fd, id, client, local);
    this.connections.add(connection);
    this.counters.count(Counter.accepted, 1);
    this.counters.count(Counter.active, 1);
    if (this.task.report) this.context.report({ kind: "connection", id, client, local });
    if (this.loop.add(fd, EPOLLIN, connection) < 0) connection.close("error");
    this.quota.spend();
    if (this.connections.size >= this.task.connectionsMax) pauseAll(this.listeners);
  }

  acceptFailed(errno: number, resting: boolean): void {
    const consequence = resting
      ? "accepting rests until descriptors or memory are free"
      : "skipped";
    this.counters.count(Counter.acceptFailures, 1);
    this.context.warn(`accept4: ${errnoText(errno)}: ${consequence}`, { kind: errnoName(errno) });
  }

  data(connection: Responder, count: number): void {
    if (!this.task.report) return;
    const { id, client, local } = connection;
    const bytes = this.receiveBuffer.bytes.slice(0, count);
    this.context.report({ kind: "data", id, client, local, bytes });
  }

  closed(connection: Responder, reason: CloseReason): void {
    this.connections.delete(connection);
    this.counters.count(Counter.active, -1);
    if (this.task.report) {
      const { id, client, local, received, sent } = connection;
      this.context.report({ kind: "closed", id, client, local, received, sent, reason });
    }
    // A descriptor is free again, whatever accepting rested for.
    if (this.connections.size < this.task.connectionsMax) resumeAll(this.listeners);
    this.onClosed();
  }

  /** Connections that are open. */
  get active(): number {
    return this.connections.size;
  }

  /** Accepts no more and lets what is open come to its end. */
  stopAccepting(): void {
    for (const listener of this.listeners) listener.close();
    this.listeners = [];
  }

  stop(): void {
    this.stopAccepting();
    for (const connection of [...this.connections]) connection.close("stopped");
  }
}

function endpoint(name: NativeBuffer): string {
  const decoded = decodeSockaddr(name.view, 0);
  return decoded === undefined ? "unknown" : formatSocketAddress(decoded);
}

const NO_REPLY = { address: 0, size: 0 } as const;

function load(bytes: Uint8Array): { address: Address; size: number } {
  if (bytes.length === 0) return NO_REPLY;
  const buffer: NativeBuffer = allocate(bytes.length);
  buffer.bytes.set(bytes);
  return buffer;
}
