/** The limits that a user sets for one client's sessions: their number, and their rate. */

import { PREFIX_WORDS, PrefixRows } from "../../engine/client-prefix.ts";
import { prefixOfKey } from "../../engine/flow-key.ts";
import { ClientLimits } from "../../fairness/client-limits.ts";
import type { SessionSettings } from "../../workers/protocol.ts";
import { type Refusal, refusals } from "./rejection.ts";

export class SessionClients {
  private readonly limits: ClientLimits;
  private readonly prefix = new Uint32Array(PREFIX_WORDS);
  /** By session: the prefix of its client. */
  private readonly prefixes: PrefixRows;

  constructor({ clients, sessionsMax }: SessionSettings) {
    this.limits = new ClientLimits(clients);
    this.prefixes = new PrefixRows(sessionsMax);
  }

  /** Counts a session of `key`'s client at `now` (ms), or returns why it may not begin. */
  refusal(key: Uint32Array, now: number): Refusal | undefined {
    prefixOfKey(key, this.prefix);
    if (!this.limits.mayBegin(this.prefix, now)) return refusals.clientRate;
    return this.limits.take(this.prefix) ? undefined : refusals.clientLimit;
  }

  /** Uncounts a session of `key`'s client: it does not begin. */
  withdraw(key: Uint32Array): void {
    prefixOfKey(key, this.prefix);
    this.limits.give(this.prefix);
  }

  /** The session of `key` has this number. */
  began(key: Uint32Array, slot: number): void {
    prefixOfKey(key, this.prefix);
    this.prefixes.put(slot, this.prefix);
  }

  /** The session with this number has ended. */
  ended(slot: number): void {
    this.limits.give(this.prefixes.get(slot));
  }
}
