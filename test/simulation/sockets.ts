/**
 * Sockets as a relay sees them, and what their peers do: partial reads and writes, edges, urgent
 * bytes, half-closes, resets, and pipes that run out.
 */

import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLPRI,
  EPOLLRDHUP,
} from "../../ffi/constants.ts";
import { EAGAIN, ECONNRESET, EPIPE } from "../../ffi/errno.ts";
import type { Pipe } from "../../src/forward/tcp/direction.ts";
import type { RelayKernel } from "../../src/forward/tcp/relay.ts";

/** What the relay's shared buffer holds, and what a socket takes before it says EAGAIN. */
export const bufferBytes = 64;
export const queueBytes = 200;

/** A number from 0 below what it is asked for. */
export type Random = (below: number) => number;

/** One end of the proxy's two connections, with the peer behind it. */
export class Socket {
  /** Sent by the peer, not yet read by the relay. Bytes are numbered, so that order shows. */
  readonly toRead: number[] = [];
  /** Sent by the relay, not yet read by the peer. */
  readonly toPeer: number[] = [];
  peerSent = 0;
  peerGot = 0;
  /** What the relay has been given of the peer's bytes, and has given to the peer. */
  taken = 0;
  relayed = 0;
  peerEnded = false;
  isShut = false;
  isReset = false;
  resetTold = false;
  /** How many bytes of `toRead` are in front of an urgent byte; -1: there is none. */
  urgentAt = -1;
  hasBeenUrgent = false;
  /** Sent with MSG_MORE: the kernel may keep it until more or the end comes. */
  isCorked = false;
  waitsToWrite = false;
  /** EAGAIN was told, or a read left room, and nothing since: to ask again would be in vain. */
  toldEmpty = false;
  toldFull = false;
  /** What the next epoll_wait tells. */
  edges = 0;

  /** All that poll(2) would say of what can be read, at an edge. */
  arrive(): void {
    this.edges |= EPOLLIN;
    if (this.peerEnded || this.isReset) this.edges |= EPOLLRDHUP;
    if (this.urgentAt >= 0) this.edges |= EPOLLPRI;
  }

  /** The peer sends so many bytes more. An urgent byte in front is no part of the stream. */
  write(count: number, isUrgent = false): void {
    if (this.isReset || this.peerEnded || this.toRead.length > queueBytes) return;
    // Of several the last one counts.
    if (isUrgent) this.urgentAt = this.toRead.length;
    this.hasBeenUrgent ||= isUrgent;
    for (let i = 0; i < count; i++) this.toRead.push(this.peerSent++);
    this.arrive();
  }

  /** The peer takes up to so many bytes; they have to be the next ones of the other peer's. */
  read(count: number): void {
    if (this.isReset) return;
    for (const byte of this.toPeer.splice(0, count)) {
      if (byte !== this.peerGot) throw new Error(`byte ${byte} where ${this.peerGot} belongs`);
      this.peerGot++;
    }
    if (!this.waitsToWrite || this.toPeer.length >= queueBytes) return;
    this.waitsToWrite = false;
    this.edges |= EPOLLOUT;
  }

  /** The peer sends no more. */
  end(): void {
    if (this.isReset || this.peerEnded) return;
    this.peerEnded = true;
    this.arrive();
  }

  /** The peer resets: what is under way is lost. */
  reset(): void {
    if (this.isReset) return;
    this.isReset = true;
    this.toRead.length = 0;
    this.toPeer.length = 0;
    this.edges |= EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  }
}

/** Above all sockets. */
let pipeEnds = 10_000;

class FakePipe implements Pipe {
  readonly readEnd = pipeEnds++;
  readonly writeEnd = pipeEnds++;
  readonly bytes: number[];

  constructor(bytes: number[] = []) {
    this.bytes = bytes;
  }
}

/** Asked before each call that moves bytes, by its number: what that call answers. */
export type Interfere = (call: number) => "again" | "one byte" | undefined;

/** The kernel behind relays. */
export class SimulatedRelayKernel implements RelayKernel {
  readonly bufferBytes = bufferBytes;
  readonly earnedBytes = 2 * bufferBytes;
  readonly buffer: number[] = [];
  /** Those that are open, by descriptor. */
  readonly sockets = new Map<number, Socket>();
  pipesMax: number;
  /** Calls that move bytes, so far. */
  calls = 0;
  /** Streams that are widened. */
  wide = 0;
  private readonly begun = new Set<number>();
  private readonly pipes = new Set<Pipe>();
  private readonly random: Random;
  private readonly interfere: Interfere;

  constructor(random: Random, pipesMax: number, interfere: Interfere) {
    this.random = random;
    this.pipesMax = pipesMax;
    this.interfere = interfere;
  }

  /** As in a loop with much to do in some turns. */
  get bytesPerTurn(): number {
    return bufferBytes * (1 + this.random(16));
  }

  /** Whether streams have moved all bytes of a turn. */
  get isSpent(): boolean {
    return this.random(4) === 0;
  }

  leftOver(): void {}

  carried(bytes: number): void {
    if (bytes < bufferBytes) throw new Error(`${bytes} bytes are no stream`);
  }

  /** Pipes that have been taken and neither given back nor closed. */
  get pipesOut(): number {
    return this.pipes.size;
  }

  recv(fd: number, offset: number): number {
    const count = this.load(this.readInto(fd, bufferBytes - offset, true), offset);
    const { peerEnded, isReset, hasBeenUrgent } = this.socket(fd);
    const mayHoldMore = peerEnded || isReset || hasBeenUrgent || count === bufferBytes - offset;
    if (count > 0 && !mayHoldMore) this.socket(fd).toldEmpty = true;
    return count;
  }

  peek(fd: number): number {
    return this.load(this.readInto(fd, bufferBytes, false));
  }

  discard(fd: number, length: number): number {
    const socket = this.socket(fd);
    if (socket.urgentAt > 0) socket.urgentAt -= length;
    socket.taken += length;
    return socket.toRead.splice(0, length).length;
  }

  send(fd: number, offset: number, length: number, more: boolean): number {
    return this.accept(fd, this.buffer.slice(offset, offset + length), more);
  }

  fill(pipe: Pipe, offset: number, length: number): number {
    this.bytesOf(pipe).push(...this.buffer.slice(offset, offset + length));
    return length;
  }

  spliceIn(fd: number, pipe: Pipe): number {
    const kept = this.bytesOf(pipe);
    const socket = this.socket(fd);
    if (kept.length > 0) throw new Error("spliced into a pipe with bytes in it");
    // Only a recv gets past an urgent byte. What is behind it does not count for the end, either.
    if (socket.urgentAt === 0) return socket.peerEnded ? 0 : -EAGAIN;
    const bytes = this.readInto(fd, 4 * bufferBytes, true);
    // A recv may follow, which tells an urgent byte from nothing.
    if (bytes === -EAGAIN) socket.toldEmpty = false;
    if (typeof bytes === "number") return bytes;
    kept.push(...bytes);
    return bytes.length;
  }

  holdsAll(): boolean {
    return true;
  }

  /** The same bytes, as both processes have them until one closes its ends. */
  adoptPipe(readEnd: number): Pipe {
    const known = [...this.pipes].find((pipe) => pipe.readEnd === readEnd);
    const pipe = new FakePipe((known as FakePipe).bytes);
    this.pipes.add(pipe);
    return pipe;
  }

  /** Another descriptor of the same socket. */
  duplicate(fd: number, other: number): void {
    const socket = this.socket(fd);
    this.sockets.set(other, socket);
    if (this.begun.has(fd)) this.begun.add(other);
    // What the other process knows of it does not come along.
    socket.toldEmpty = false;
    socket.toldFull = false;
  }

  begin(from: number, to: number): void {
    if (this.begun.has(from) || from === to) throw new Error(`a stream of ${from} begins twice`);
    this.begun.add(from);
  }

  widen(from: number, to: number): boolean {
    if (!this.begun.has(from) || from === to) throw new Error(`${from} has not begun a stream`);
    if (this.random(2) === 0) return false;
    this.wide++;
    return true;
  }

  narrow(): void {
    this.wide--;
  }

  push(fd: number): void {
    this.socket(fd).isCorked = false;
  }

  spliceOut(pipe: Pipe, fd: number, length: number, more: boolean): number {
    const bytes = this.bytesOf(pipe);
    if (length !== bytes.length) throw new Error(`${bytes.length} bytes held, ${length} said`);
    const taken = this.accept(fd, bytes, more);
    if (taken > 0) bytes.splice(0, taken);
    return taken;
  }

  error(fd: number): number {
    const socket = this.socket(fd);
    if (!socket.isReset || socket.resetTold) return 0;
    socket.resetTold = true;
    return ECONNRESET;
  }

  shutdown(fd: number): void {
    const socket = this.socket(fd);
    if (socket.isShut) throw new Error("shut down twice");
    socket.isShut = true;
    socket.isCorked = false;
  }

  hasPipe(): boolean {
    return this.pipesOut < this.pipesMax;
  }

  takePipe(): Pipe | undefined {
    if (!this.hasPipe()) return undefined;
    const pipe = new FakePipe();
    this.pipes.add(pipe);
    return pipe;
  }

  givePipe(pipe: Pipe): void {
    if (this.bytesOf(pipe).length > 0) throw new Error("a pipe with bytes was given back");
    this.pipes.delete(pipe);
  }

  dropPipe(pipe: Pipe): void {
    this.bytesOf(pipe);
    this.pipes.delete(pipe);
  }

  /** @throws for a descriptor that is not open. */
  socket(fd: number): Socket {
    const socket = this.sockets.get(fd);
    if (socket === undefined) throw new Error(`descriptor ${fd} is not open`);
    return socket;
  }

  /** Forgets a socket: its number may be that of another one from now on. */
  close(fd: number): void {
    this.socket(fd);
    this.sockets.delete(fd);
    this.begun.delete(fd);
  }

  private bytesOf(pipe: Pipe): number[] {
    if (!this.pipes.has(pipe)) throw new Error("a pipe is used after its end");
    return (pipe as FakePipe).bytes;
  }

  private readInto(fd: number, limit: number, take: boolean): number[] | number {
    const what = this.interfere(this.calls++);
    const socket = this.socket(fd);
    if (socket.isReset && !socket.resetTold) {
      socket.resetTold = true;
      return -ECONNRESET;
    }
    // A read stops in front of an urgent byte, and the next one begins behind it.
    if (socket.urgentAt === 0) socket.urgentAt = -1;
    if (socket.toldEmpty) throw new Error("read again although nothing has come");
    if (socket.toRead.length === 0) {
      if (socket.peerEnded || socket.isReset) return 0;
      socket.toldEmpty = true;
      return -EAGAIN;
    }
    if (what === "again") {
      // What is there has come just behind the answer.
      socket.toldEmpty = true;
      socket.arrive();
      return -EAGAIN;
    }
    const queued = socket.urgentAt > 0 ? socket.urgentAt : socket.toRead.length;
    let count = Math.min(limit, queued);
    // The rest has come only afterwards, and makes an edge.
    if (what === "one byte" || this.random(4) === 0) {
      count = what === "one byte" ? 1 : 1 + this.random(count);
      if (count < socket.toRead.length) socket.arrive();
    }
    if (!take) return socket.toRead.slice(0, count);
    socket.taken += count;
    if (socket.urgentAt > 0) socket.urgentAt -= count;
    return socket.toRead.splice(0, count);
  }

  private load(bytes: number[] | number, offset = 0): number {
    if (typeof bytes === "number") return bytes;
    this.buffer.splice(offset, this.buffer.length, ...bytes);
    return bytes.length;
  }

  private accept(fd: number, bytes: readonly number[], more: boolean): number {
    const what = this.interfere(this.calls++);
    const socket = this.socket(fd);
    socket.isCorked = more;
    if (socket.isShut) throw new Error("sent after the end");
    if (socket.isReset) {
      if (socket.resetTold) return -EPIPE;
      socket.resetTold = true;
      return -ECONNRESET;
    }
    if (socket.toldFull) throw new Error("sent again although nothing has been taken");
    const room = queueBytes - socket.toPeer.length;
    if (room <= 0 || what === "again" || this.random(8) === 0) {
      socket.waitsToWrite = true;
      socket.toldFull = true;
      return -EAGAIN;
    }
    const some = what === "one byte" ? 1 : 1 + this.random(bytes.length);
    const all = what !== "one byte" && this.random(2) === 0;
    const taken = Math.min(room, all ? bytes.length : some);
    for (let i = 0; i < taken; i++) socket.toPeer.push(bytes[i] as number);
    socket.relayed += taken;
    if (taken < bytes.length) socket.waitsToWrite = true;
    return taken;
  }
}

/** The peer of a socket. */
export interface Peer {
  stalled: boolean;
  /** Sends urgent bytes: few do, and nothing is as it was afterwards. */
  readonly isUrgent: boolean;
}

/** A peer as chance has it. */
export function somePeer(random: Random): Peer {
  return { stalled: false, isUrgent: random(4) === 0 };
}

/** Something that a peer does. */
export function act(socket: Socket, peer: Peer, random: Random): void {
  switch (random(11)) {
    case 0:
      if (random(30) === 0) socket.reset();
      return;
    case 1:
      if (random(6) > 0) return;
      // Last words may come together with the end.
      if (random(2) === 0) socket.write(1 + random(10));
      socket.end();
      return;
    case 2:
      peer.stalled = random(3) === 0;
      return;
    case 3:
    case 4:
    case 5:
      if (!peer.stalled) socket.read(1 + random(queueBytes));
      return;
    default:
      socket.write(
        1 + random(random(4) === 0 ? 4 * bufferBytes : 10),
        peer.isUrgent && random(20) === 0,
      );
  }
}
