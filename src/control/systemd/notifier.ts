/**
 * Messages to the service manager (sd_notify(3)): datagrams to the socket that $NOTIFY_SOCKET
 * names. Nothing here throws or blocks: a service runs as well where nobody listens.
 *
 * The queue of such a socket may be short (net.unix.max_dgram_qlen is 10 by default) and one
 * descriptor to be stored is one message, so what the manager has no room for is retried.
 */

import { AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM } from "../../../ffi/constants.ts";
import { describeErrno, EAGAIN, EINTR } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import { sendUnix } from "../../../ffi/unix-socket.ts";
import { quote } from "../../net/result.ts";

/** Messages that wait for the manager, at most; the oldest are dropped beyond them. */
const waitingMax = 4_096;
const retryMs = 20;
/** After so long without room nobody reads there, and what waits is dropped. */
const givenUpMs = 30_000;

interface Message {
  readonly text: string;
  readonly fds: readonly number[];
}

/** A message as sd_notify(3) has it: a line for each variable. Lines cannot break. */
function notifyText(variables: Readonly<Record<string, string | number | bigint>>): string {
  return Object.entries(variables)
    .map(([name, value]) => `${name}=${String(value).replaceAll(/\p{Cc}+/gu, " ")}\n`)
    .join("");
}

export class Notifier {
  private readonly path: string;
  private readonly fd: number;
  private readonly warn: (text: string) => void;
  private readonly waiting: Message[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private fullSince: number | undefined;
  private hasWarned = false;
  private isClosed = false;

  /**
   * Sends to the socket at `path` (`@name`: abstract). `warn` gets the first failure; messages that
   * fail are dropped.
   */
  constructor(path: string, warn: (text: string) => void) {
    this.path = path;
    this.warn = warn;
    this.fd = sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  }

  /** Undefined where no manager wants to be notified. */
  static fromEnvironment(
    { NOTIFY_SOCKET: path = "" }: NodeJS.ProcessEnv,
    warn: (text: string) => void,
  ): Notifier | undefined {
    return path === "" ? undefined : new Notifier(path, warn);
  }

  /** Everything that serves is in place. Also ends a reload. */
  ready(status: string): void {
    this.send({ READY: 1, STATUS: status });
  }

  /** A reload begins; `ready` ends it, whatever came of it. */
  reloading(): void {
    this.send({ RELOADING: 1, MONOTONIC_USEC: sys.monotonicUs() });
  }

  /** One line for `systemctl status`. */
  status(text: string): void {
    this.send({ STATUS: text });
  }

  stopping(status: string): void {
    this.send({ STOPPING: 1, STATUS: status });
  }

  /** All Workers turn. */
  watchdog(): void {
    this.send({ WATCHDOG: 1 });
  }

  /** Process `pid` goes on as the main process of the service. */
  mainPid(pid: number): void {
    this.send({ MAINPID: pid });
  }

  /**
   * Has the manager keep a copy of `fd` under `name` for the next process, whatever becomes
   * readable or fails there.
   */
  store(name: string, fd: number): void {
    this.send({ FDSTORE: 1, FDNAME: name, FDPOLL: 0 }, [fd]);
  }

  /** Has the manager close all that it keeps under `name`. */
  forget(name: string): void {
    this.send({ FDSTOREREMOVE: 1, FDNAME: name });
  }

  /** Drops what still waits. Nothing is sent afterwards. */
  close(): void {
    clearTimeout(this.timer);
    this.waiting.length = 0;
    if (this.fd >= 0 && !this.isClosed) sys.close(this.fd);
    this.isClosed = true;
  }

  private send(
    variables: Readonly<Record<string, string | number | bigint>>,
    fds: readonly number[] = [],
  ): void {
    if (this.isClosed) return;
    if (this.waiting.length >= waitingMax) this.waiting.shift();
    this.waiting.push({ text: notifyText(variables), fds });
    if (this.timer === undefined) this.flush();
  }

  /** Sends what waits, in its order. */
  private flush(): void {
    this.timer = undefined;
    for (let next = this.waiting[0]; next !== undefined; next = this.waiting[0]) {
      const result =
        this.fd < 0
          ? this.fd
          : sendUnix(this.fd, new TextEncoder().encode(next.text), next.fds, this.path);
      if ((result === -EAGAIN || result === -EINTR) && this.mayRetry()) return;
      if (result < 0) this.failed(result);
      else this.fullSince = undefined;
      this.waiting.shift();
    }
  }

  /** Tries again soon; false where nobody has read for too long. */
  private mayRetry(): boolean {
    this.fullSince ??= performance.now();
    if (performance.now() - this.fullSince > givenUpMs) return false;
    this.timer = setTimeout(() => this.flush(), retryMs);
    // A process that has ended does not wait for its manager.
    this.timer.unref();
    return true;
  }

  private failed(result: number): void {
    if (this.hasWarned) return;
    this.hasWarned = true;
    const reason = describeErrno(-result);
    this.warn(`cannot notify the service manager at NOTIFY_SOCKET=${quote(this.path)}: ${reason}`);
  }
}
