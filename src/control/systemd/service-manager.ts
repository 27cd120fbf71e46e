/** All that a server has to do with its service manager; nothing where there is none. */

import { FdStore, type ListeningSocket } from "./fd-store.ts";
import { Notifier } from "./notifier.ts";
import type { Passed } from "./take-passed.ts";
import { type Beating, Watchdog, watchdogPeriodMs } from "./watchdog.ts";

/** How often the line of `systemctl status` is looked at. */
const statusMs = 2_000;

/** A server that has started. */
export interface Started {
  readonly workers: Beating;
  readonly listeners: () => readonly ListeningSocket[];
  /** The line of `systemctl status`, read again and again. */
  readonly status: () => string;
}

export class ServiceManager {
  private readonly notifier: Notifier | undefined;
  private readonly periodMs: number | undefined;
  private readonly store: FdStore | undefined;
  private watchdog: Watchdog | undefined;
  private timer: ReturnType<typeof setInterval> | undefined;
  private lastStatus = "";
  private readonly pid: number;
  private readonly owned: ReadonlySet<number>;
  private begun: Started | undefined;

  /** Reads the variables of `env` for process `pid`. `warn` is called where nobody listens. */
  constructor(
    env: NodeJS.ProcessEnv,
    pid: number,
    { stored, owned, useless }: Passed,
    warn: (text: string) => void,
  ) {
    this.pid = pid;
    this.owned = owned;
    this.notifier = Notifier.fromEnvironment(env, warn);
    this.periodMs = watchdogPeriodMs(env, pid);
    if (this.notifier === undefined) return;
    for (const name of useless) this.notifier.forget(name);
    this.store = new FdStore(this.notifier, stored, owned);
  }

  /** Everything that serves is in place. */
  started(begun: Started): void {
    const { workers, listeners, status } = begun;
    this.begun = begun;
    if (this.notifier === undefined) return;
    this.listening(listeners());
    this.lastStatus = status();
    this.notifier.ready(this.lastStatus);
    if (this.periodMs !== undefined) {
      this.watchdog = new Watchdog(workers, this.notifier, this.periodMs);
    }
    this.timer = setInterval(() => this.tell(status()), statusMs);
    this.timer.unref();
  }

  /** These are the listeners now: the manager keeps them for the next process. */
  listening(listeners: readonly ListeningSocket[]): void {
    this.store?.keep(listeners);
  }

  /** A reload begins. `reloaded` has to follow, whatever comes of it. */
  reloading(): void {
    this.notifier?.reloading();
  }

  reloaded(status: string): void {
    this.lastStatus = status;
    this.notifier?.ready(status);
  }

  /** The server accepts nothing more. The watchdog goes on: what drains may hang as well. */
  stopping(): void {
    clearInterval(this.timer);
    this.notifier?.stopping("stopping: open connections may go on for the drain time-out");
  }

  /** The descriptors that the manager keeps, for the new process of an upgrade. */
  handOver(): unknown {
    return { kept: [...(this.store?.kept ?? [])], owned: [...this.owned] };
  }

  /** The new process `pid` is the main one from here on; the manager hears nothing more of this. */
  handedTo(pid: number): void {
    clearInterval(this.timer);
    this.watchdog?.close();
    this.notifier?.mainPid(pid);
  }

  /** This is the main process again. */
  takenBack(): void {
    this.notifier?.mainPid(this.pid);
    if (this.begun !== undefined) this.started(this.begun);
  }

  close(): void {
    clearInterval(this.timer);
    this.watchdog?.close();
    this.notifier?.close();
  }

  private tell(status: string): void {
    if (status === this.lastStatus) return;
    this.lastStatus = status;
    this.notifier?.status(status);
  }
}
