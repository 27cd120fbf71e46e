/**
 * Finds the session of a datagram without a header: the one that its sender's socket has named
 * last. The ends of a datagram identify the socket, for as long as it has a session. Pure.
 */

import { KEY_WORDS } from "../../engine/flow-key.ts";
import { KeyIndex } from "../../engine/key-index.ts";

export class SenderIndex {
  private readonly index: KeyIndex;
  /** By sender: the session it has named last, -1 when that has ended; and how many it has. */
  private readonly named: Int32Array;
  private readonly sessions: Int32Array;
  /** By session: its sender, -1 for none. */
  private readonly senderOf: Int32Array;

  /** For as many sessions; `random` returns any 32-bit number, see `KeyIndex`. */
  constructor(sessionsMax: number, random: () => number) {
    this.index = new KeyIndex(sessionsMax, KEY_WORDS, random);
    this.named = new Int32Array(sessionsMax);
    this.sessions = new Int32Array(sessionsMax);
    this.senderOf = new Int32Array(sessionsMax).fill(-1);
  }

  /** The number of senders that have a session. */
  get size(): number {
    return this.index.size;
  }

  /** The session that the socket of `key` has named last, -1 if there is none. */
  find(key: Uint32Array): number {
    const sender = this.index.find(key);
    return sender < 0 ? -1 : (this.named[sender] as number);
  }

  /** The socket of `key` has named a session, which may have begun with that. */
  name(key: Uint32Array, session: number): void {
    let sender = this.senderOf[session] as number;
    if (sender < 0) sender = this.begin(key, session);
    this.named[sender] = session;
  }

  /** A session has ended. */
  end(session: number): void {
    const sender = this.senderOf[session] as number;
    if (sender < 0) return;
    this.senderOf[session] = -1;
    const left = (this.sessions[sender] as number) - 1;
    this.sessions[sender] = left;
    if (left === 0) this.index.remove(sender);
    else if (this.named[sender] === session) this.named[sender] = -1;
  }

  private begin(key: Uint32Array, session: number): number {
    let sender = this.index.find(key);
    if (sender < 0) {
      sender = this.index.insert(key);
      this.sessions[sender] = 0;
    }
    this.sessions[sender] = (this.sessions[sender] as number) + 1;
    this.senderOf[session] = sender;
    return sender;
  }
}
