/**
 * The turns of connections that carry much, of all services of a Worker. Messages are relayed as
 * soon as their event is there; streams come behind the events of a turn, first come, first served,
 * until they have moved all bytes of the turn (`TurnBudget`). The others go first in the next turn.
 */

import type { TurnBudget } from "./turn-budget.ts";

/** What may wait for its turn. */
export interface TurnTaker {
  /** It waits; written here. */
  isWaitingForTurn: boolean;
  /** Its turn has come. It may have ended meanwhile, and may add itself again. */
  takeTurn(): void;
}

/** Runs a callback behind the events of the next turn (`EventLoop.defer`). */
interface Deferring {
  defer(callback: () => void): void;
}

export class StreamTurns {
  private readonly loop: Deferring;
  private readonly budget: Pick<TurnBudget, "isSpent" | "leftOver">;
  private waiting: TurnTaker[] = [];
  private isScheduled = false;
  /** The first one waits since an earlier turn. */
  private isOverdue = false;
  private readonly serve = () => this.serveWaiting();

  constructor(loop: Deferring, budget: Pick<TurnBudget, "isSpent" | "leftOver">) {
    this.loop = loop;
    this.budget = budget;
  }

  /** Whether a stream with an event has to wait: others wait, or the turn's bytes are spent. */
  get mustWait(): boolean {
    return this.waiting.length > 0 || this.budget.isSpent;
  }

  /** Gives a stream a turn behind those that wait; nothing happens if it waits already. */
  add(taker: TurnTaker): void {
    if (taker.isWaitingForTurn) return;
    taker.isWaitingForTurn = true;
    this.waiting.push(taker);
    this.schedule();
  }

  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    this.loop.defer(this.serve);
  }

  private serveWaiting(): void {
    this.isScheduled = false;
    const takers = this.waiting;
    this.waiting = [];
    let served = 0;
    // One that waits since an earlier turn is served, whatever the events of this one have moved.
    const isDue = () => !this.budget.isSpent || (this.isOverdue && served === 0);
    while (served < takers.length && isDue()) {
      const taker = takers[served++] as TurnTaker;
      taker.isWaitingForTurn = false;
      taker.takeTurn();
    }
    this.budget.leftOver(takers.length - served);
    if (served < takers.length) this.waiting = [...takers.slice(served), ...this.waiting];
    this.isOverdue = this.waiting.length > 0;
    if (this.isOverdue) this.schedule();
  }
}
