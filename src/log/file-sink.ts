/**
 * A file of the log. Lines wait in memory while a write is under way, and are dropped and counted
 * where they cannot be written or too many wait: a full disk, or one that hangs, slows no traffic.
 */

import { closeSync, openSync, write } from "node:fs";
import { logBytesMax } from "../engine/limits.ts";
import { CommandError } from "../errors.ts";
import { printLines } from "../net/printable.ts";

/** The mode of a file that is made. */
const fileMode = 0o640;

export class FileSink {
  /** Lines that were dropped. */
  lost = 0;
  readonly path: string;
  private readonly failed: (why: string) => void;
  private fd: number;
  /** Writes the rest to a file that was replaced, then closes it. */
  private former: number | undefined;
  private queue: string[] = [];
  private queued = 0;
  private isWriting = false;
  private waiting: (() => void)[] = [];

  /** `failed` is called when lines are dropped. @throws CommandError */
  constructor(path: string, failed: (why: string) => void) {
    this.path = path;
    this.failed = failed;
    try {
      this.fd = open(path);
    } catch (error) {
      throw new CommandError(`Cannot open the log file: ${reasonOf(error)}`);
    }
  }

  /** Queues whole lines. */
  write(text: string): void {
    if (text === "") return;
    if (this.queued + text.length > logBytesMax)
      return this.drop(text, "it takes lines too slowly");
    this.queue.push(text);
    this.queued += text.length;
    if (!this.isWriting) this.next();
  }

  /** Opens the path again, as after logrotate(8) has renamed the file. */
  reopen(): void {
    let fd: number;
    try {
      fd = open(this.path);
    } catch (error) {
      return this.failed(`${reasonOf(error)}: the file that was open is written on`);
    }
    if (this.isWriting && this.former === undefined) this.former = this.fd;
    else closeSync(this.fd);
    this.fd = fd;
  }

  /** Settles when everything has been written, or dropped. */
  flush(): Promise<void> {
    if (!this.isWriting) return Promise.resolve();
    return new Promise((done) => this.waiting.push(done));
  }

  private next(): void {
    if (this.former !== undefined) closeSync(this.former);
    this.former = undefined;
    const text = this.queue.join("");
    this.queue = [];
    this.queued = 0;
    this.isWriting = text !== "";
    if (this.isWriting) return this.put(this.fd, text, Buffer.from(printLines(text)));
    for (const done of this.waiting.splice(0)) done();
  }

  private put(fd: number, text: string, bytes: Uint8Array): void {
    write(fd, bytes, 0, bytes.length, null, (error, count) => {
      if (error !== null) this.drop(text, error.code ?? "EIO");
      else if (count < bytes.length) return this.put(fd, text, bytes.subarray(count));
      this.next();
    });
  }

  private drop(text: string, why: string): void {
    this.lost += text.split("\n").length - 1;
    this.failed(`${this.path}: ${why}`);
  }
}

function open(path: string): number {
  return openSync(path, "a", fileMode);
}

function reasonOf(error: unknown): string {
  const { code, message } = error as { code?: string; message: string };
  return code === undefined ? message : message.replace(/^[A-Z]+: /, `${code}: `);
}
