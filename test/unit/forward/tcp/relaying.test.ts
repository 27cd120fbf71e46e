/** The turns of relays: messages at once, streams behind them. */

import { expect, test } from "bun:test";
import { EPOLLIN } from "../../../../ffi/constants.ts";
import { StreamTurns } from "../../../../src/engine/stream-turns.ts";
import { TurnBudget } from "../../../../src/engine/turn-budget.ts";
import type { TcpConnection } from "../../../../src/forward/tcp/connection.ts";
import type { Relay, RelayState } from "../../../../src/forward/tcp/relay.ts";
import {
  Relaying,
  type RelayingOwner,
  type RelayingParts,
} from "../../../../src/forward/tcp/relaying.ts";

test("a message goes at once, a stream waits while others wait or the turn is spent", () => {
  const deferred: (() => void)[] = [];
  const budget = new TurnBudget();
  const streams = new StreamTurns({ defer: (callback) => deferred.push(callback) }, budget);
  const parts = { loop: { now: 0, streams }, router: {} } as unknown as RelayingParts;
  const relaying = new Relaying(parts, {} as RelayingOwner);
  const order: string[] = [];
  const connection = (name: string, isStream: boolean, states: RelayState[]): TcpConnection => {
    const relay = {
      ...{ ready: () => {}, isStream, sent: 0, received: 0, isHalfClosed: false },
      run: () => {
        order.push(name);
        if (isStream) budget.carried(2 ** 30);
        return states.shift() ?? "open";
      },
    } as unknown as Relay;
    const made = { relay, isWaitingForTurn: false, takeTurn: () => relaying.onTurn(taker) };
    const taker = made as unknown as TcpConnection;
    return taker;
  };
  const [first, second] = [connection("1", true, ["more", "more"]), connection("2", true, [])];
  const message = connection("message", false, []);
  const turn = (ready: readonly TcpConnection[]) => {
    budget.begin(1);
    for (const [at, each] of ready.entries()) {
      if (at % 2 === 0) relaying.onClient(each, EPOLLIN);
      else relaying.onUpstream(each, EPOLLIN);
    }
    for (const callback of deferred.splice(0)) callback();
    return order.splice(0);
  };
  // The first stream moves all bytes of the turn, and has more.
  expect(turn([first, second, message])).toEqual(["1", "message"]);
  expect(turn([second, first, message])).toEqual(["message", "1"]);
  expect(turn([message, message])).toEqual(["message", "message", "2"]);
  expect(turn([second])).toEqual(["1"]);
  expect(turn([])).toEqual(["2"]);
  expect(turn([])).toEqual([]);
  expect(turn([second, message])).toEqual(["2", "message"]);
});
