/**
 * The relay over a simulated kernel: seeded partial writes, reads during which more arrives, EAGAIN
 * at every point, urgent bytes, stalled readers, half-closes in every order, resets, pipes that run
 * out. What must hold is checked after every step; a failure prints its seed, and TPROXY_SEED
 * replays it.
 */

import { expect, test } from "bun:test";
import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLPRI,
  EPOLLRDHUP,
} from "../../ffi/constants.ts";
import { EAGAIN, ECONNRESET, EPIPE } from "../../ffi/errno.ts";
import { type Pipe, Relay, type RelayKernel } from "../../src/tcp/relay.ts";
import { generator } from "../helpers/random.ts";

const bufferBytes = 64;
const queueBytes = 200;

/** One end of the proxy's two connections, with the peer behind it. */
class Socket {
  /** Sent by the peer, not yet read by the relay. Bytes are numbered, so that order shows. */
  readonly toRead: number[] = [];
  /** Sent by the relay, not yet read by the peer. */
  readonly toPeer: number[] = [];
  peerSent = 0;
  peerGot: number[] = [];
  peerEnded = false;
  isShut = false;
  isReset = false;
  resetTold = false;
  /** How many bytes of `toRead` are in front of an urgent byte; -1: there is none. */
  urgentAt = -1;
  /** Sent with MSG_MORE: the kernel may keep it until more or the end comes. */
  isCorked = false;
  waitsToWrite = false;
  /** What the next epoll_wait tells. */
  edges = 0;

  /** All that poll(2) would say of what can be read, at an edge. */
  arrive(): void {
    this.edges |= EPOLLIN;
    if (this.peerEnded || this.isReset) this.edges |= EPOLLRDHUP;
    if (this.urgentAt >= 0) this.edges |= EPOLLPRI;
  }
}

class FakePipe implements Pipe {
  readonly readEnd = 0;
  readonly writeEnd = 0;
  readonly bytes: number[] = [];
}

class FakeKernel implements RelayKernel {
  readonly bufferBytes = bufferBytes;
  readonly buffer: number[] = [];
  readonly sockets = [new Socket(), new Socket()] as const;
  pipesOut = 0;
  pipesMax: number;
  private readonly random: (below: number) => number;

  constructor(random: (below: number) => number, pipesMax: number) {
    this.random = random;
    this.pipesMax = pipesMax;
  }

  private readInto(fd: number, limit: number, take: boolean): number[] | number {
    const socket = this.sockets[fd] as Socket;
    if (socket.isReset && !socket.resetTold) {
      socket.resetTold = true;
      return -ECONNRESET;
    }
    // A read stops in front of an urgent byte, and the next one begins behind it.
    if (socket.urgentAt === 0) socket.urgentAt = -1;
    if (socket.toRead.length === 0) return socket.peerEnded || socket.isReset ? 0 : -EAGAIN;
    const queued = socket.urgentAt > 0 ? socket.urgentAt : socket.toRead.length;
    let count = Math.min(limit, queued);
    // The rest has come only afterwards, and makes an edge.
    if (this.random(4) === 0) {
      count = 1 + this.random(count);
      if (count < socket.toRead.length) socket.arrive();
    }
    if (!take) return socket.toRead.slice(0, count);
    if (socket.urgentAt > 0) socket.urgentAt -= count;
    return socket.toRead.splice(0, count);
  }

  private load(bytes: number[] | number, offset = 0): number {
    if (typeof bytes === "number") return bytes;
    this.buffer.splice(offset, this.buffer.length, ...bytes);
    return bytes.length;
  }

  recv(fd: number, offset: number): number {
    return this.load(this.readInto(fd, bufferBytes - offset, true), offset);
  }

  peek(fd: number): number {
    return this.load(this.readInto(fd, bufferBytes, false));
  }

  discard(fd: number, length: number): number {
    const socket = this.sockets[fd] as Socket;
    if (socket.urgentAt > 0) socket.urgentAt -= length;
    return socket.toRead.splice(0, length).length;
  }

  private accept(fd: number, bytes: readonly number[], more: boolean): number {
    const socket = this.sockets[fd] as Socket;
    socket.isCorked = more;
    if (socket.isShut) throw new Error("sent after the end");
    if (socket.isReset) {
      if (socket.resetTold) return -EPIPE;
      socket.resetTold = true;
      return -ECONNRESET;
    }
    const room = queueBytes - socket.toPeer.length;
    if (room <= 0 || this.random(8) === 0) {
      socket.waitsToWrite = true;
      return -EAGAIN;
    }
    const count = Math.min(room, 1 + this.random(bytes.length), bytes.length);
    const taken = this.random(2) === 0 ? Math.min(room, bytes.length) : count;
    socket.toPeer.push(...bytes.slice(0, taken));
    if (taken < bytes.length) socket.waitsToWrite = true;
    return taken;
  }

  send(fd: number, offset: number, length: number, more: boolean): number {
    return this.accept(fd, this.buffer.slice(offset, offset + length), more);
  }

  fill(pipe: Pipe, offset: number, length: number): number {
    (pipe as FakePipe).bytes.push(...this.buffer.slice(offset, offset + length));
    return length;
  }

  spliceIn(fd: number, pipe: Pipe): number {
    if ((pipe as FakePipe).bytes.length > 0)
      throw new Error("spliced into a pipe with bytes in it");
    // Only a recv gets past an urgent byte.
    if ((this.sockets[fd] as Socket).urgentAt === 0) return -EAGAIN;
    const bytes = this.readInto(fd, 4 * bufferBytes, true);
    if (typeof bytes === "number") return bytes;
    (pipe as FakePipe).bytes.push(...bytes);
    return bytes.length;
  }

  push(fd: number): void {
    (this.sockets[fd] as Socket).isCorked = false;
  }

  spliceOut(pipe: Pipe, fd: number, length: number, more: boolean): number {
    const { bytes } = pipe as FakePipe;
    if (length !== bytes.length) throw new Error(`${bytes.length} bytes held, ${length} said`);
    const taken = this.accept(fd, bytes, more);
    if (taken > 0) bytes.splice(0, taken);
    return taken;
  }

  error(fd: number): number {
    const socket = this.sockets[fd] as Socket;
    if (!socket.isReset || socket.resetTold) return 0;
    socket.resetTold = true;
    return ECONNRESET;
  }

  shutdown(fd: number): void {
    const socket = this.sockets[fd] as Socket;
    if (socket.isShut) throw new Error("shut down twice");
    socket.isShut = true;
    socket.isCorked = false;
  }

  hasPipe(): boolean {
    return this.pipesOut < this.pipesMax;
  }

  takePipe(): Pipe | undefined {
    if (!this.hasPipe()) return undefined;
    this.pipesOut++;
    return new FakePipe();
  }

  givePipe(pipe: Pipe): void {
    if ((pipe as FakePipe).bytes.length > 0) throw new Error("a pipe with bytes was given back");
    this.pipesOut--;
  }

  dropPipe(): void {
    this.pipesOut--;
  }
}

const RESET = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR;

interface Peer {
  stalled: boolean;
  /** Sends urgent bytes: few do, and nothing is as it was afterwards. */
  readonly isUrgent: boolean;
}

/** Something that happens outside of the relay. */
function act(kernel: FakeKernel, peers: readonly Peer[], random: (below: number) => number): void {
  const index = random(2);
  const socket = kernel.sockets[index] as Socket;
  const peer = peers[index] as Peer;
  switch (random(12)) {
    case 0:
      if (random(30) === 0 && !socket.isReset) {
        socket.isReset = true;
        socket.toRead.length = 0;
        socket.toPeer.length = 0;
        socket.edges |= RESET;
      }
      return;
    case 1:
      if (random(6) > 0) return;
      // Last words may come together with the end.
      if (random(2) === 0) writeByPeer(socket, 1 + random(10));
      endPeer(socket);
      return;
    case 2:
      peer.stalled = random(3) === 0;
      return;
    case 3:
      kernel.pipesMax = random(4);
      return;
    case 4:
    case 5:
    case 6:
      if (!peer.stalled) readByPeer(socket, 1 + random(queueBytes));
      return;
    default:
      writeByPeer(
        socket,
        1 + random(random(4) === 0 ? 4 * bufferBytes : 10),
        peer.isUrgent && random(20) === 0,
      );
  }
}

function endPeer(socket: Socket): void {
  if (socket.isReset || socket.peerEnded) return;
  socket.peerEnded = true;
  socket.arrive();
}

function writeByPeer(socket: Socket, count: number, isUrgent = false): void {
  if (socket.isReset || socket.peerEnded || socket.toRead.length > queueBytes) return;
  // An urgent byte is no part of the stream. Of several the last one counts.
  if (isUrgent) socket.urgentAt = socket.toRead.length;
  for (let i = 0; i < count; i++) socket.toRead.push(socket.peerSent++);
  socket.arrive();
}

function readByPeer(socket: Socket, count: number): void {
  if (socket.isReset) return;
  const wasFull = socket.waitsToWrite;
  socket.peerGot.push(...socket.toPeer.splice(0, count));
  if (wasFull && socket.toPeer.length < queueBytes) {
    socket.waitsToWrite = false;
    socket.edges |= EPOLLOUT;
  }
}

function deliverEdges(kernel: FakeKernel, relay: Relay): boolean {
  let any = false;
  (["client", "upstream"] as const).forEach((name, index) => {
    const socket = kernel.sockets[index] as Socket;
    if (socket.edges === 0) return;
    any = true;
    relay.ready(name, socket.edges);
    socket.edges = 0;
  });
  return any;
}

/** What a peer got is a beginning of what the other sent: nothing lost, doubled or out of order. */
function checkOrder(kernel: FakeKernel): void {
  const [client, upstream] = kernel.sockets;
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    const seen = to.peerGot.length;
    if (seen > from.peerSent) throw new Error(`${seen} bytes of ${from.peerSent} arrived`);
    to.peerGot.forEach((byte, at) => {
      if (byte !== at) throw new Error(`byte ${byte} where ${at} belongs`);
    });
  }
}

function checkArrived({ sockets: [client, upstream] }: FakeKernel): void {
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    if (to.peerGot.length !== from.peerSent) {
      throw new Error(`${to.peerGot.length} of ${from.peerSent} bytes arrived`);
    }
  }
}

function simulate(seed: number): { steps: number; end: string } {
  const random = generator(seed);
  const kernel = new FakeKernel(random, random(4));
  const relay = new Relay(kernel, 0, 1);
  const peers: Peer[] = [0, 1].map(() => ({ stalled: false, isUrgent: random(4) === 0 }));
  let state = relay.run();
  let steps = 0;
  const turn = () => {
    if (deliverEdges(kernel, relay) || state === "more") state = relay.run();
    // A close sends what is kept; nothing else may be left so.
    const isCorked = kernel.sockets.some((socket) => socket.isCorked && !socket.waitsToWrite);
    if (isCorked && state === "open") throw new Error("MSG_MORE, and neither more nor an end");
  };
  const isOver = () => state === "done" || state === "failed";
  // Without anything new, and with peers that read, all that was sent gets through.
  const settle = () => {
    for (let i = 0; i < 1000 && !isOver(); i++) {
      for (const socket of kernel.sockets) readByPeer(socket, queueBytes);
      turn();
    }
    if (!isOver()) checkArrived(kernel);
  };
  for (; steps < 2000 && !isOver(); steps++) {
    act(kernel, peers, random);
    if (random(3) > 0) turn();
    if (random(200) === 0) settle();
  }
  // From here on nobody stalls and both peers end: every state must be left.
  const [client, upstream] = kernel.sockets;
  for (const socket of kernel.sockets) endPeer(socket);
  for (let i = 0; i < 100_000 && !isOver(); i++, steps++) {
    for (const socket of kernel.sockets) readByPeer(socket, queueBytes);
    turn();
  }
  if (!isOver()) throw new Error("a state that is never left");
  relay.release();
  if (kernel.pipesOut !== 0) throw new Error(`${kernel.pipesOut} pipes are left`);
  if (state === "done") {
    for (const socket of kernel.sockets) readByPeer(socket, queueBytes);
    checkArrived(kernel);
    if (relay.sent !== client.peerSent || relay.received !== upstream.peerSent) {
      throw new Error("the counters are wrong");
    }
  } else if (!client.isReset && !upstream.isReset) throw new Error("failed without a reset");
  checkOrder(kernel);
  return { steps, end: state };
}

test("a reset is noticed although the other side takes nothing", () => {
  const kernel = new FakeKernel(generator(1), 4);
  const relay = new Relay(kernel, 0, 1);
  const [client] = kernel.sockets;
  while (!kernel.sockets[1].waitsToWrite || client.toRead.length <= queueBytes) {
    writeByPeer(client, bufferBytes);
    deliverEdges(kernel, relay);
    expect(relay.run()).not.toBe("failed");
  }
  client.isReset = true;
  relay.ready("client", RESET);
  expect(relay.run()).toBe("failed");
  expect(relay.failedSide).toBe("client");
  relay.release();
});

test("whatever the kernel answers, every byte arrives once and in order", () => {
  const replay = process.env.TPROXY_SEED;
  const first = replay === undefined ? Math.floor(Math.random() * 0xffffffff) : Number(replay);
  const runs = replay === undefined ? 1500 : 1;
  const ends = new Map<string, number>();
  let steps = 0;
  for (let seed = first; seed < first + runs; seed++) {
    try {
      const result = simulate(seed);
      steps += result.steps;
      ends.set(result.end, (ends.get(result.end) ?? 0) + 1);
    } catch (error) {
      throw new Error(`TPROXY_SEED=${seed}: ${error instanceof Error ? error.message : error}`);
    }
  }
  if (replay !== undefined) return;
  // The simulation reached both kinds of end, often.
  expect(ends.get("done") ?? 0).toBeGreaterThan(runs / 20);
  expect(ends.get("failed") ?? 0).toBeGreaterThan(runs / 20);
  expect(steps).toBeGreaterThan(runs * 50);
}, 60_000);
