/**
 * The watchdog of the service manager (WatchdogSec=): it is fed only while the main thread and
 * every Worker turn. A Worker that hangs, and with it a part of the traffic, is a reason to
 * restart, even if the main thread goes on.
 */

import type { Notifier } from "./notifier.ts";

/** The Workers of this process. */
export interface Beating {
  /** Whether every Worker has passed a turn since the last `askForTurn`. */
  readonly allTurned: boolean;
  /** Has each Worker pass a turn and say so; one that sleeps is woken. */
  askForTurn(): void;
}

/** Looks so many times within the manager's period: a Worker that was slow for half is in time. */
const looksPerPeriod = 4;

/**
 * The period in ms that the manager has set for this process, `pid`; undefined without one. After
 * an upgrade WATCHDOG_PID is absent: the new process is not the one that the manager started.
 */
export function watchdogPeriodMs(env: NodeJS.ProcessEnv, pid: number): number | undefined {
  const { WATCHDOG_USEC = "", WATCHDOG_PID = String(pid) } = env;
  if (!/^[1-9][0-9]{0,15}$/.test(WATCHDOG_USEC) || WATCHDOG_PID !== String(pid)) return undefined;
  return Number(WATCHDOG_USEC) / 1000;
}

export class Watchdog {
  private readonly timer: ReturnType<typeof setInterval>;

  /** Begins to look after `workers`, and feeds the watchdog of `notifier` as long as they turn. */
  constructor(
    workers: Beating,
    notifier: Pick<Notifier, "watchdog">,
    periodMs: number,
    every: (look: () => void, ms: number) => ReturnType<typeof setInterval> = setInterval,
  ) {
    notifier.watchdog();
    workers.askForTurn();
    this.timer = every(
      () => {
        if (!workers.allTurned) return;
        notifier.watchdog();
        workers.askForTurn();
      },
      Math.max(1, Math.floor(periodMs / looksPerPeriod)),
    );
  }

  close(): void {
    clearInterval(this.timer);
  }
}
