/**
 * How much of one turn of the loop each kind of work gets, so that turns stay short and no kind of
 * work starves another. Pure: times are handed in, in ms.
 *
 * Streams share a number of bytes. A share depends on how many streams wanted a turn last time, not
 * on how many sockets are ready: messages need no share. Accepting gets a part of the time that the
 * last turn took, since what is accepted costs as much again when it connects and closes.
 */

import {
  acceptMsLeast,
  acceptMsMost,
  acceptShare,
  receiveBytes,
  spliceBytesMax,
  streamBytesPerTurn,
} from "./limits.ts";

export class TurnBudget {
  private share = spliceBytesMax;
  private bytesLeft = streamBytesPerTurn;
  private streams = 0;
  private acceptMsLeft = acceptMsLeast;

  /** A turn begins; the last one took `lastMs`, without its wait. */
  begin(lastMs: number): void {
    const fair = Math.floor(streamBytesPerTurn / Math.max(1, this.streams));
    this.share = Math.min(fair, spliceBytesMax);
    this.bytesLeft = streamBytesPerTurn;
    this.streams = 0;
    this.acceptMsLeft = Math.min(Math.max(acceptShare * lastMs, acceptMsLeast), acceptMsMost);
  }

  /** The most bytes that one direction of a stream moves now, at least one buffer. */
  get streamBytes(): number {
    return Math.max(receiveBytes, Math.min(this.share, this.bytesLeft));
  }

  /** Streams have moved all bytes of this turn: the others wait for the next one. */
  get isSpent(): boolean {
    return this.bytesLeft <= 0;
  }

  /** One direction has moved so many bytes in this turn; at least a buffer makes it a stream. */
  carried(bytes: number): void {
    if (bytes < receiveBytes) return;
    this.streams++;
    this.bytesLeft -= bytes;
  }

  /** So many streams have had no turn: they count for the shares of the next one. */
  leftOver(count: number): void {
    this.streams += count;
  }

  /** How long, in ms, a listener may accept now; it may always accept one connection. */
  get acceptMs(): number {
    return this.acceptMsLeft;
  }

  /** A listener has accepted for `ms`. */
  accepted(ms: number): void {
    this.acceptMsLeft = Math.max(0, this.acceptMsLeft - ms);
  }
}
