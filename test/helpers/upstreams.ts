/** Pools of upstreams for tests, with a board of their own. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { builtInPool } from "../../src/config/pool.ts";
import type { Balance } from "../../src/config/syntax.ts";
import { type PoolListener, UpstreamPool } from "../../src/forward/upstream-pool.ts";
import type { PooledAddress, PoolRules, Upstreams } from "../../src/workers/protocol.ts";
import { UpstreamBoard } from "../../src/workers/upstream-board.ts";

const { passive } = builtInPool;

/** The rules of a pool where nothing but the balance is set. */
export function poolRules(balance: Balance): PoolRules {
  const { failures, rest: ms, "rest-max": msMax } = passive;
  return {
    ...{ name: "test-pool", balance, onDown: "keep", whenAllDown: "try" },
    backOff: { failures, ms, msMax },
  };
}

/** Addresses that are all alike; the last byte of each is its slot of the board. */
export function pooled(addresses: readonly SocketAddress[]): PooledAddress[] {
  return addresses.map((address) => ({
    ...{ address, slot: address.address.at(-1) ?? 0, isBackup: false, slowStartMs: 0 },
  }));
}

/** A board for one Worker, with upstreams of weight 100. */
export function makeBoard(): UpstreamBoard {
  const board = new UpstreamBoard(UpstreamBoard.memory(1));
  for (let slot = 0; slot < 256; slot++) board.set(slot, 0, 100);
  return board;
}

/** The upstreams of a task: addresses that are all alike. */
export function fixedUpstreams(addresses: readonly SocketAddress[]): Upstreams {
  return { kind: "fixed", addresses: pooled(addresses), board: makeBoard().memory };
}

/** A pool of addresses that are all alike. */
export function poolOf(
  balance: Balance,
  addresses: readonly SocketAddress[],
  listener: PoolListener,
): UpstreamPool {
  return new UpstreamPool(poolRules(balance), pooled(addresses), makeBoard(), listener);
}
