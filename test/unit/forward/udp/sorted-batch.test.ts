import { expect, test } from "bun:test";
import fc from "fast-check";
import { PayloadSlots, ReceiveBatch } from "../../../../ffi/receive-batch.ts";
import { SortedBatch } from "../../../../src/forward/udp/sorted-batch.ts";

const MESSAGES = 16;
const SESSIONS = 4;

const first = new ReceiveBatch(new PayloadSlots(1), true);
const second = new ReceiveBatch(new PayloadSlots(1), true);

/** Which session message `index` is for, undefined for none; and whether it ends at that point. */
const messages = fc.array(
  fc.record({
    session: fc.option(fc.nat(SESSIONS - 1), { nil: undefined }),
    ends: fc.option(fc.nat(SESSIONS - 1), { nil: undefined }),
  }),
  { maxLength: MESSAGES },
);

test("each session's messages are taken once, in the order in which they came", () => {
  fc.assert(
    fc.property(fc.array(messages, { maxLength: 3 }), (batches) => {
      const sorted = new SortedBatch<{ head: number; tail: number }>(first, MESSAGES);
      const sessions = Array.from({ length: SESSIONS }, () => ({ head: -1, tail: -1 }));
      const take = (session: { head: number; tail: number }) => {
        const taken: number[] = [];
        for (let i = sorted.take(session); i >= 0; i = sorted.next[i] as number) taken.push(i);
        return taken;
      };
      for (const batch of batches) {
        sorted.begin(second);
        expect(sorted.batch).toBe(second);
        const wanted = sessions.map((): number[] => []);
        batch.forEach(({ session, ends }, index) => {
          if (session !== undefined) {
            sorted.add(sessions[session] as (typeof sessions)[0], index);
            wanted[session]?.push(index);
          }
          if (ends === undefined) return;
          // As a session that is evicted while the batch is being sorted.
          expect(take(sessions[ends] as (typeof sessions)[0])).toEqual(wanted[ends] as number[]);
          wanted[ends] = [];
        });
        for (const session of sorted.sessions) {
          const own = sessions.indexOf(session);
          expect(take(session)).toEqual(wanted[own] as number[]);
          wanted[own] = [];
        }
        expect(wanted.flat()).toEqual([]);
        sorted.clear();
        expect(sorted.sessions).toEqual([]);
      }
    }),
  );
});
