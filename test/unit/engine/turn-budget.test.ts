/**
 * Turns of the loop: messages, streams and listeners that all have work, whatever their numbers.
 * None waits longer than its share of the turns, and no turn takes more than its bounds.
 */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  acceptMsLeast,
  acceptMsMost,
  acceptShare,
  receiveBytes,
  spliceBytesMax,
  streamBytesPerTurn,
} from "../../../src/engine/limits.ts";
import { StreamTurns, type TurnTaker } from "../../../src/engine/stream-turns.ts";
import { TurnBudget } from "../../../src/engine/turn-budget.ts";

/** A loop of which the test runs the turns. */
class Turns {
  readonly budget = new TurnBudget();
  readonly streams = new StreamTurns(this, this.budget);
  turn = 0;
  private deferred: (() => void)[] = [];

  defer(callback: () => void): void {
    this.deferred.push(callback);
  }

  /** One turn: the events, then what was deferred before or by them. */
  run(events: () => void = () => {}, lastMs = 1): void {
    this.turn++;
    this.budget.begin(lastMs);
    events();
    const deferred = this.deferred;
    this.deferred = [];
    for (const callback of deferred) callback();
  }
}

/** A stream that always has more: it moves what it may, and asks for another turn. */
class Stream implements TurnTaker {
  isWaitingForTurn = false;
  moved = 0;
  lastTurn = 0;
  longestWait = 0;
  private readonly turns: Turns;

  constructor(turns: Turns) {
    this.turns = turns;
  }

  takeTurn(): void {
    const { budget, streams, turn } = this.turns;
    this.longestWait = Math.max(this.longestWait, turn - this.lastTurn);
    this.lastTurn = turn;
    const bytes = budget.streamBytes;
    this.moved += bytes;
    budget.carried(bytes);
    streams.add(this);
  }

  /** Its socket is ready. */
  onReady(): void {
    if (this.isWaitingForTurn) return;
    if (this.turns.streams.mustWait) this.turns.streams.add(this);
    else this.takeTurn();
  }
}

describe("streams", () => {
  test("one alone moves as much as one splice(2) takes, however many messages are ready", () => {
    const { budget } = new Turns();
    for (let message = 0; message < 1_000; message++) budget.carried(100);
    budget.begin(1);
    expect(budget.streamBytes).toBe(spliceBytesMax);
  });

  test("a turn moves no more than its bytes and one share; each waits its share of turns", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.boolean(), (count, hasEvents) => {
        const turns = new Turns();
        const all = Array.from({ length: count }, () => new Stream(turns));
        const total = () => all.reduce((sum, { moved }) => sum + moved, 0);
        const events = () => {
          for (const stream of all) stream.onReady();
        };
        turns.run(events);
        for (let turn = 0; turn < 200; turn++) {
          const before = total();
          turns.run(hasEvents ? events : undefined);
          expect(total() - before).toBeLessThanOrEqual(streamBytesPerTurn + spliceBytesMax);
        }
        // With shares of one buffer, as many have a turn as there are buffers in the budget.
        const perTurn = Math.min(count, streamBytesPerTurn / receiveBytes);
        for (const { lastTurn, longestWait } of all) {
          expect(longestWait).toBeLessThanOrEqual(Math.ceil(count / perTurn) + 2);
          expect(turns.turn - lastTurn).toBeLessThanOrEqual(Math.ceil(count / perTurn) + 2);
        }
        const least = Math.min(...all.map(({ moved }) => moved));
        const most = Math.max(...all.map(({ moved }) => moved));
        expect(most - least).toBeLessThanOrEqual(2 * spliceBytesMax + 0.1 * most);
      }),
      { numRuns: 30 },
    );
  });

  test("one that has waited has its turn, whatever the events of each turn move", () => {
    const turns = new Turns();
    const stream = new Stream(turns);
    turns.run(() => turns.streams.add(stream));
    for (let turn = 0; turn < 50; turn++) {
      turns.run(() => turns.budget.carried(2 * streamBytesPerTurn));
      expect(stream.lastTurn).toBe(turns.turn);
    }
  });

  test("those of one service that come later do not overtake those of another", () => {
    const turns = new Turns();
    const order: string[] = [];
    const taker = (name: string): TurnTaker => ({
      isWaitingForTurn: false,
      takeTurn() {
        order.push(name);
        turns.budget.carried(streamBytesPerTurn);
      },
    });
    const [a, b, c] = [taker("a"), taker("b"), taker("c")] as const;
    for (const each of [a, b, a]) turns.streams.add(each);
    turns.run();
    turns.run(() => turns.streams.add(c));
    turns.run(() => turns.streams.add(a));
    turns.run();
    expect(order).toEqual(["a", "b", "c", "a"]);
  });
});

describe("accepting", () => {
  /** Turns in which a connection costs `ms` to accept and as much again in the next turn. */
  function settled(relayMs: number, ms: number): { accepted: number; turnMs: number } {
    const budget = new TurnBudget();
    let [turnMs, accepted] = [0, 0];
    for (let turn = 0; turn < 200; turn++) {
      budget.begin(turnMs);
      turnMs = relayMs + accepted * ms;
      const end = budget.acceptMs;
      for (accepted = 0; accepted === 0 || accepted * ms < end; ) accepted++;
      turnMs += accepted * ms;
      budget.accepted(accepted * ms);
      expect(budget.acceptMs).toBeLessThan(end);
    }
    return { accepted, turnMs };
  }

  test("new connections get their part of a busy loop's time, and no more", () => {
    for (const relayMs of [0, 0.5, 1, 2, 4]) {
      const ms = 0.05;
      const { accepted, turnMs } = settled(relayMs, ms);
      const part = (accepted * ms) / turnMs;
      const bound = Math.max(acceptShare * turnMs, acceptMsLeast) + ms;
      expect(accepted * ms).toBeLessThanOrEqual(bound + 1e-9);
      // They take at most as long as the relays, or a moment; relays do not starve them either.
      expect(turnMs).toBeLessThanOrEqual(2 * (relayMs + 2 * (acceptMsLeast + ms)) + 1e-9);
      if (relayMs > 0 && relayMs < 2) expect(part).toBeGreaterThanOrEqual(acceptShare / 2);
    }
  });

  test("after a long turn a listener accepts for a bounded time, and listeners share it", () => {
    const budget = new TurnBudget();
    budget.begin(1_000);
    expect(budget.acceptMs).toBe(acceptMsMost);
    budget.accepted(1.5);
    expect(budget.acceptMs).toBe(acceptMsMost - 1.5);
    budget.accepted(1.5);
    expect(budget.acceptMs).toBe(0);
    budget.begin(0);
    expect(budget.acceptMs).toBe(acceptMsLeast);
  });
});
