/**
 * Decides which datagrams `listen --udp` answers. A source address can be forged: then the answer
 * goes to a host that has not asked. So an answer is no larger than its question, a client gets a
 * bounded number of them a second, and two programs do not answer each other for ever.
 */

import { answerBytesFree } from "../engine/limits.ts";
import { randomWord } from "../engine/random.ts";
import { ClientRates } from "../fairness/client-rates.ts";
import type { AnswerBounds } from "../workers/protocol.ts";

export class AnswerPolicy {
  private readonly bounds: AnswerBounds;
  private readonly reply: Uint8Array | undefined;
  private readonly rates: ClientRates | undefined;

  /** `reply` is the answer to all; undefined: each gets its own datagram back. */
  constructor(bounds: AnswerBounds, reply: Uint8Array | undefined) {
    this.bounds = bounds;
    this.reply = reply;
    const { perSecond } = bounds;
    if (perSecond > 0) this.rates = new ClientRates(perSecond, randomWord);
  }

  /**
   * Returns why a question gets no answer, or "". It came at `now` (ms) from the client with this
   * prefix, with `hops` hops left (0: unknown); its answer has `size` bytes.
   */
  refusal(
    question: Uint8Array,
    size: number,
    hops: number,
    prefix: Uint32Array,
    now: number,
  ): string {
    if (hops === 1) return "its hop limit was used up, as in a loop";
    if (this.reply !== undefined && isSame(question, this.reply)) {
      return "it is what we answer ourselves";
    }
    const { amplifies, perSecond } = this.bounds;
    if (!amplifies && size > Math.max(question.length, answerBytesFree)) {
      return `the answer has more bytes (${size}) than came in: "amplify" sends it`;
    }
    if (this.rates?.take(prefix, now) ?? true) return "";
    return `its client has had ${perSecond} answers in a second: "answer-rate" sets that`;
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}
