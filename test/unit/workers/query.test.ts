import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatConnectionId, parseConnectionId } from "../../../src/workers/connection-id.ts";
import { Largest } from "../../../src/workers/query.ts";
import { type Measured, measure } from "../../../src/workers/rates.ts";
import { rateStaleMs, rateWindowMs } from "../../../src/workers/scan-limits.ts";

test("the largest are kept, in their order, and of equal ones those that came first", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20)), fc.nat(10), (keys, limit) => {
      const largest = new Largest<number>(limit);
      for (const [index, key] of keys.entries()) largest.add(key, index);
      const all = keys.map((key, item) => ({ key, item })).sort((a, b) => b.key - a.key);
      expect([...largest.items()]).toEqual(all.slice(0, limit));
    }),
  );
});

test("an id is read back, and any other text rejected", () => {
  const from1 = (max: number) => fc.integer({ min: 1, max });
  fc.assert(
    fc.property(
      from1(9999),
      from1(Number.MAX_SAFE_INTEGER),
      from1(2 ** 31),
      (worker, sequence, generation) => {
        const id = { worker, sequence, generation };
        expect(parseConnectionId(formatConnectionId(id))).toEqual({ ok: true, value: id });
      },
    ),
  );
  for (const text of ["", "1", "1.2", "1.02.1", "1.1.1.1", "1.1.1 ", "1.99999999999999999.1"]) {
    expect(parseConnectionId(text)).toMatchObject({ ok: false });
  }
});

test("a rate is what was carried since the look before", () => {
  const row = { startedAt: 0, sent: 0, received: 0, sample: undefined } as Measured & {
    sent: number;
    received: number;
  };
  // Young: all that it has carried, though not in less than the window.
  row.sent = 500;
  expect(measure(row, 1)).toMatchObject({ client: (500 * 1000) / rateWindowMs, upstream: 0 });
  // Too early: as before.
  row.sent = 10_000;
  expect(measure(row, rateWindowMs)).toMatchObject({ client: (500 * 1000) / rateWindowMs });
  row.received = 3_000;
  expect(measure(row, 2001)).toMatchObject({ client: 4_750, upstream: 1_500 });
  // Old, and never looked at: nothing is known.
  const old: Measured = { startedAt: 0, sent: 1e9, received: 1e9, sample: undefined };
  expect(measure(old, rateStaleMs)).toMatchObject({ client: 0, upstream: 0 });
});
