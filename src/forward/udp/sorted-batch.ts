/**
 * The messages of one received batch, sorted by session. Messages of one session keep the order in
 * which they arrived. `Session.head` and `Session.tail` are the first and the last one. Pure.
 */

import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";

/** The part of a session that this uses: indices of messages, -1 for none. */
export interface Queue {
  head: number;
  tail: number;
}

export class SortedBatch<Session extends Queue> {
  /** By message: the next one of the same session, -1 at the end. */
  readonly next: Int32Array;
  /** Every session that has got a message, in the order of their first ones. */
  readonly sessions: Session[] = [];
  /** The batch that holds the messages. */
  batch: ReceiveBatch;

  /** `batch` is the first one; none has more than `messagesMax` messages. */
  constructor(batch: ReceiveBatch, messagesMax: number) {
    this.batch = batch;
    this.next = new Int32Array(messagesMax);
  }

  /** Begins with the messages of `batch`. */
  begin(batch: ReceiveBatch): void {
    this.batch = batch;
  }

  /** Puts message `index` behind the others of its session. */
  add(session: Session, index: number): void {
    this.next[index] = -1;
    if (session.head < 0) {
      session.head = index;
      this.sessions.push(session);
    } else this.next[session.tail] = index;
    session.tail = index;
  }

  /** Removes the messages of a session and returns the first one, -1 for none; see `next`. */
  take(session: Session): number {
    const { head } = session;
    session.head = -1;
    return head;
  }

  /** Ends with a batch, of which all messages have been taken. */
  clear(): void {
    this.sessions.length = 0;
  }
}
