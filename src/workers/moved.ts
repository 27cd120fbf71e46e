/** What moves to another process at an upgrade, as Workers and main threads pass it on. */

import type { Scheme } from "../net/target.ts";

/** A connection or session: plain data that becomes JSON on its way. */
export interface Packed {
  readonly protocol: "tcp" | "udp";
  /** Its service. */
  readonly service: string;
  /** The id that the log has of it: the sequence in its Worker, or where it has moved, the text. */
  readonly id: number | string;
  /** How many descriptors it has. */
  readonly descriptors: number;
}

/** One of those with its descriptors, which stay open until it is settled. */
export interface Frozen {
  readonly packed: Packed;
  readonly descriptors: readonly number[];
}

/** What a Worker has frozen: nothing more, if it `isLast`. Both lists have the same order. */
export interface FrozenRows {
  /** By which the Worker knows them. */
  readonly numbers: readonly number[];
  readonly rows: readonly Packed[];
  /** Of all rows, one behind the other. */
  readonly descriptors: readonly number[];
  readonly isLast: boolean;
}

/** One that a Worker of the new process shall go on with. */
export interface Adopted {
  /** The number of the service there. */
  readonly service: number;
  readonly packed: Packed;
  readonly descriptors: readonly number[];
}

/** What Workers are told of what moves. */
export type MoveCommand =
  /**
   * Freeze up to `most` connections or sessions, for another process to go on with: from the oldest
   * one if it `isFirst`, or behind the last command.
   */
  | {
      readonly kind: "freeze";
      readonly request: number;
      readonly protocol: Scheme;
      readonly most: number;
      readonly isFirst: boolean;
    }
  /** Of those that are frozen, these have left; these go on here, and are not frozen again. */
  | { readonly kind: "settle"; readonly left: readonly number[]; readonly kept: readonly number[] }
  /** Take over these, of another process. */
  | { readonly kind: "adopt"; readonly request: number; readonly adopted: readonly Adopted[] }
  /** Go on with those of this `adopt`: the other process has closed them. */
  | { readonly kind: "begin"; readonly request: number };

/** What they answer. */
export type MoveAnswer =
  | { readonly kind: "frozen"; readonly request: number; readonly frozen: FrozenRows }
  /** Those with these places in the list are not here; the others are. */
  | { readonly kind: "adopted"; readonly request: number; readonly refused: readonly number[] };
