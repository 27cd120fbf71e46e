/** Changes of a server are carried out one after the other. */

import { CommandError } from "../../errors.ts";

export class ChangeQueue {
  private last: Promise<unknown> = Promise.resolve();
  private readonly obstacle: () => string | undefined;

  /** `obstacle` returns why nothing may be changed now; undefined: it may. */
  constructor(obstacle: () => string | undefined) {
    this.obstacle = obstacle;
  }

  /** Carries out a change once those before it are done. @throws CommandError: it may not be */
  change<T>(work: () => Promise<T>): Promise<T> {
    return this.exclusively(() => {
      const obstacle = this.obstacle();
      if (obstacle !== undefined) throw new CommandError(obstacle);
      return work();
    });
  }

  /** Calls `work` once all changes so far are done. The next one waits until it has settled. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.last.then(work);
    this.last = done.catch(() => {});
    return done;
  }
}
