/**
 * The slots of the board: each address of each upstream of each pool has one, by these names. An
 * address that is gone keeps its slot, and its counters with it, until the slots are used up: a
 * name's addresses come and go with each look-up.
 */

import { upstreamSlotsMax } from "../../engine/limits.ts";
import type { UpstreamBoard } from "../../workers/upstream-board.ts";

export class UpstreamSlots {
  readonly board: UpstreamBoard;
  private readonly taken = new Map<string, number>();
  /** Slots that nobody uses, the one that was released first in front. */
  private readonly released = new Map<string, number>();
  private readonly slotsMax: number;

  constructor(board: UpstreamBoard, slotsMax = upstreamSlotsMax) {
    this.board = board;
    this.slotsMax = slotsMax;
  }

  /** The slot of this key: the one it had before, or a new one; -1: all are in use. */
  take(key: string): number {
    const slot = this.taken.get(key) ?? this.released.get(key) ?? this.newSlot();
    this.released.delete(key);
    if (slot >= 0) this.taken.set(key, slot);
    return slot;
  }

  /** Nothing new goes there. What is open still counts. */
  release(key: string): void {
    const slot = this.taken.get(key);
    if (slot === undefined) return;
    this.taken.delete(key);
    this.released.set(key, slot);
  }

  private newSlot(): number {
    const used = this.taken.size + this.released.size;
    if (used < this.slotsMax) {
      this.board.reset(used);
      return used;
    }
    for (const [key, slot] of this.released) {
      const { open, openSessions } = this.board.counters(slot);
      if (open > 0 || openSessions > 0) continue;
      this.released.delete(key);
      this.board.reset(slot);
      return slot;
    }
    return -1;
  }
}
