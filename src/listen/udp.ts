/** The UDP side of `listen`: receives datagrams in batches, logs and answers each. */

import { EPOLLIN } from "../../ffi/constants.ts";
import { describeFailure, EAGAIN, EINTR } from "../../ffi/errno.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../ffi/receive-batch.ts";
import type { Fd } from "../../ffi/types.ts";
import { PREFIX_WORDS } from "../engine/client-prefix.ts";
import { clientOfKey, KEY_WORDS, originalOfKey, prefixOfKey, readKey } from "../engine/flow-key.ts";
import { batchDatagrams, batchesPerTurn, listenerBufferBytes } from "../engine/limits.ts";
import type { Handler } from "../engine/loop.ts";
import { prepareForMuch } from "../engine/udp-sockets.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { Counter } from "../workers/counters.ts";
import type { RespondTask, ServedSocket } from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";
import type { Quota } from "./quota.ts";
import { AnswerPolicy } from "./reply-policy.ts";
import { ReplySender } from "./reply-sender.ts";

export class UdpService implements Service {
  private readonly context: ServiceContext;
  private readonly task: RespondTask;
  private readonly quota: Quota;
  private readonly answers: ReplySender;
  private readonly arrivals: ReceiveBatch;
  /** The answer of `--reply`. */
  private readonly reply: NativeBuffer | undefined;
  private readonly key = new Uint32Array(KEY_WORDS);
  /** The key of the datagram before, in the same batch. */
  private readonly flow = new Uint32Array(KEY_WORDS);
  private readonly prefix = new Uint32Array(PREFIX_WORDS);
  private readonly policy: AnswerPolicy;
  /** Its ends as text. */
  private client = "";
  private local = "";
  private sockets: UdpSocket[];

  constructor(
    context: ServiceContext,
    task: RespondTask,
    sockets: readonly ServedSocket[],
    quota: Quota,
  ) {
    this.context = context;
    this.task = task;
    this.quota = quota;
    this.answers = new ReplySender(context);
    this.arrivals = new ReceiveBatch(new PayloadSlots(batchDatagrams), true);
    const replied = task.answer.kind === "reply" ? task.answer.bytes : undefined;
    this.policy = new AnswerPolicy(task.answers, replied);
    if (task.answer.kind === "reply") this.reply = nativeCopy(task.answer.bytes);
    this.sockets = sockets.map((socket) => new UdpSocket(this, context, socket));
  }

  stop(): void {
    for (const socket of this.sockets) socket.close();
    this.sockets = [];
    this.answers.close();
  }

  /** Receives and serves one batch; returns false when the queue is empty, or after `stop`. */
  take(socket: ServedSocket): boolean {
    const { arrivals } = this;
    const count = arrivals.receive(socket.fd);
    if (count < 0) return this.failed(-count);
    this.flow.fill(0);
    for (let i = 0; i < count && this.sockets.length > 0; i++) this.serve(socket, i);
    this.answers.end();
    return count === arrivals.capacity && this.sockets.length > 0;
  }

  private failed(errno: number): boolean {
    if (errno === EAGAIN) return false;
    // The error is of an earlier answer (ICMP), and concerns no other one.
    if (errno !== EINTR) this.context.warn(describeFailure({ call: "recvmmsg", errno }));
    return true;
  }

  private serve(socket: ServedSocket, index: number): void {
    const { arrivals, context, key, task } = this;
    const at = arrivals.destinationAt(index);
    if (at < 0 || !readKey(arrivals.names, arrivals.nameAt(index), arrivals.controls, at, key)) {
      context.shared.count(Counter.droppedDatagrams, 1);
      return context.warn("a datagram without its original destination was dropped");
    }
    if (!this.isOfFlow()) this.beginFlow(socket);
    const length = arrivals.length(index);
    context.shared.count(Counter.datagrams, 1);
    context.shared.count(Counter.clientBytes, length);
    const upstreamBytes = this.answer(index, length);
    if (task.report) {
      const { client, local } = this;
      const from = arrivals.slots.offset(index);
      const bytes = arrivals.slots.buffer.bytes.slice(from, from + length);
      context.report({ kind: "datagram", client, local, bytes, upstreamBytes });
    }
    this.quota.spend();
  }

  private isOfFlow(): boolean {
    const { flow, key } = this;
    for (let i = 0; i < KEY_WORDS; i++) if (flow[i] !== key[i]) return false;
    return true;
  }

  private beginFlow(socket: ServedSocket): void {
    const { key, task } = this;
    this.flow.set(key);
    prefixOfKey(key, this.prefix);
    const client = clientOfKey(key);
    const destination = originalOfKey(key);
    if (task.report) {
      this.client = formatSocketAddress(client);
      this.local = formatSocketAddress(destination);
    }
    if (task.answer.kind !== "discard") this.answers.begin(socket, destination, client);
  }

  /** Returns the bytes of the answer; 0 if there was none, or sending it failed. */
  private answer(index: number, length: number): number {
    const { answers, arrivals, context, policy, prefix, reply, task } = this;
    if (task.answer.kind === "discard") return 0;
    const { slots } = arrivals;
    const from = slots.offset(index);
    const size = task.answer.kind === "reply" ? task.answer.bytes.length : length;
    const hops = arrivals.hopLimit(index);
    const question = slots.buffer.bytes.subarray(from, from + length);
    const refusal = policy.refusal(question, size, hops, prefix, context.loop.now);
    if (refusal !== "") {
      context.shared.count(Counter.droppedDatagrams, 1);
      context.warn(`a datagram was not answered: ${refusal}`);
      return 0;
    }
    const isSent =
      reply === undefined
        ? answers.send(slots.buffer, from, size, hops)
        : answers.send(reply, 0, size, hops);
    context.shared.count(isSent ? Counter.upstreamBytes : Counter.failed, isSent ? size : 1);
    return isSent ? size : 0;
  }
}

class UdpSocket implements Handler {
  private readonly service: UdpService;
  private readonly context: ServiceContext;
  private readonly socket: ServedSocket;

  constructor(service: UdpService, context: ServiceContext, socket: ServedSocket) {
    this.service = service;
    this.context = context;
    this.socket = socket;
    prepareForMuch(socket.fd, listenerBufferBytes, false);
    context.loop.add(socket.fd as Fd, EPOLLIN, this);
  }

  onReady(): void {
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      if (!this.service.take(this.socket)) return;
    }
  }

  close(): void {
    this.context.loop.close(this.socket.fd as Fd);
  }
}

/** Copies a reply into native memory; an empty one has one byte, since no memory has 0 bytes. */
function nativeCopy(bytes: Uint8Array): NativeBuffer {
  const copy = allocate(Math.max(bytes.length, 1));
  copy.bytes.set(bytes);
  return copy;
}
