/**
 * Text on a descriptor: standard output or standard error. A write that blocks (a slow reader, a
 * terminal after Ctrl-S, a hung file system) blocks a thread of the runtime's pool and never the
 * main thread, so that signals, timers and Workers go on. The open file is shared with
 * the program that started us, which is why O_NONBLOCK is not set on it.
 *
 * Whatever is written, nothing in it drives the reader's terminal: see printable.ts.
 */

import { write } from "node:fs";
import { isatty } from "node:tty";
import { printColored, printLines } from "../net/printable.ts";
import type { LogSink } from "./sink.ts";

const encoder = new TextEncoder();

/** The bytes of one write(2) at most; a slow reader gets its text in parts. */
const writeBytesMax = 64 * 1024;
const newline = 0x0a;

/** When a write is tried again that the descriptor did not take: it is full, or failing. */
const fullRetryMs = 20;
const failedRetryMs = 250;

/** How long text waits for what came before it on the other descriptor. */
const otherMaxMs = 100;

/** The place of a text among those of both descriptors. */
let texts = 0;

/**
 * How much of a text is written next: whole lines, if one fits. During an upgrade the other process
 * writes to the same file, and its lines may come between two parts.
 */
function partBytes(bytes: Uint8Array, offset: number): number {
  const left = bytes.length - offset;
  if (left <= writeBytesMax) return left;
  const end = bytes.subarray(offset, offset + writeBytesMax).lastIndexOf(newline) + 1;
  return end > 0 ? end : writeBytesMax;
}

/** A text that is to be written. */
interface Queued {
  readonly bytes: Uint8Array;
  readonly place: number;
  readonly done: () => void;
}

/** The events of a sink. */
export interface SinkListener {
  /** Nobody reads any more (EPIPE), or it failed otherwise: nothing more is written. */
  closed(code: string): void;
  /** A sink that `keepsTrying` could not be written; once until it can be. */
  failing(code: string): void;
}

export class DescriptorSink implements LogSink {
  readonly isTerminal: boolean;
  readonly colors: boolean;
  /** After an error other than EPIPE the text stays, and is tried again and again. */
  keepsTrying = false;
  private readonly fd: number;
  private readonly listener: SinkListener;
  /** Often the same file: its text and ours keep their order, unless it is blocked. */
  other: DescriptorSink | undefined;
  private readonly queue: Queued[] = [];
  private offset = 0;
  private queued = 0;
  private isOpen = true;
  private isWriting = false;
  private isRelaxed = false;
  /** The other one has waited too long. */
  private isLate = false;
  private successor:
    | { readonly go: () => void; readonly timer: ReturnType<typeof setTimeout> }
    | undefined;
  private error: string | undefined;
  /** Those who wait until no more than `bytes` are queued. */
  private waiting: { readonly bytes: number; readonly done: () => void }[] = [];

  constructor(fd: 1 | 2, listener: SinkListener) {
    this.fd = fd;
    this.listener = listener;
    this.isTerminal = isatty(fd);
    this.colors = this.isTerminal && !process.env.NO_COLOR && process.env.TERM !== "dumb";
  }

  get columns(): number | undefined {
    if (!this.isTerminal) return undefined;
    const { columns } = this.fd === 1 ? process.stdout : process.stderr;
    return columns >= 40 ? columns : undefined;
  }

  get pending(): number {
    return this.queued;
  }

  write(text: string): Promise<void> {
    if (!this.isOpen || text === "") return Promise.resolve();
    const bytes = encoder.encode(this.colors ? printColored(text) : printLines(text));
    this.queued += bytes.length;
    return new Promise((done) => {
      this.queue.push({ bytes, place: ++texts, done });
      if (!this.isWriting) this.next();
    });
  }

  room(bytes: number): Promise<void> {
    if (!this.isOpen || this.isRelaxed || this.queued <= bytes) return Promise.resolve();
    return new Promise((done) => this.waiting.push({ bytes, done }));
  }

  endWaiting(): void {
    this.isRelaxed = true;
    this.wake(Number.POSITIVE_INFINITY);
  }

  /** Settles when everything has been written, or cannot be. */
  flush(): Promise<void> {
    this.isRelaxed = false;
    return this.error === undefined ? this.room(0) : Promise.resolve();
  }

  private next(): void {
    const [head] = this.queue;
    this.isWriting = head !== undefined;
    if (head === undefined) return;
    if (this.other?.isBefore(head.place)) return this.other.precede(() => this.next());
    const length = partBytes(head.bytes, this.offset);
    write(this.fd, head.bytes, this.offset, length, null, (error, count) => {
      if (error === null) this.taken(head.bytes.length, count);
      else this.failed(error.code ?? "EIO");
    });
  }

  /** Whether something that came before is still to be written, and soon will be. */
  private isBefore(place: number): boolean {
    const [head] = this.queue;
    return head !== undefined && head.place < place && !this.isLate;
  }

  /** Calls `go` after the next write here, or when that takes too long. */
  private precede(go: () => void): void {
    const timer = setTimeout(() => {
      this.isLate = true;
      this.letGo();
    }, otherMaxMs);
    this.successor = { go, timer };
  }

  private letGo(): void {
    const { successor } = this;
    this.successor = undefined;
    clearTimeout(successor?.timer);
    successor?.go();
  }

  private taken(size: number, count: number): void {
    this.error = undefined;
    this.isLate = false;
    this.offset += count;
    this.queued -= count;
    if (this.offset === size) {
      this.offset = 0;
      this.queue.shift()?.done();
    }
    this.wake();
    this.next();
    this.letGo();
  }

  private failed(code: string): void {
    if (code === "EAGAIN" || code === "EINTR") {
      setTimeout(() => this.next(), fullRetryMs);
      return;
    }
    if (this.keepsTrying && code !== "EPIPE" && code !== "EBADF") {
      const isNew = this.error === undefined;
      this.error = code;
      setTimeout(() => this.next(), failedRetryMs);
      if (isNew) this.listener.failing(code);
      return;
    }
    this.isOpen = false;
    this.isWriting = false;
    this.queued = 0;
    for (const { done } of this.queue.splice(0)) done();
    this.wake();
    this.letGo();
    this.listener.closed(code);
  }

  private wake(more = 0): void {
    const { queued, waiting } = this;
    this.waiting = waiting.filter(({ bytes }) => queued > bytes + more);
    for (const { bytes, done } of waiting) if (queued <= bytes + more) done();
  }
}
