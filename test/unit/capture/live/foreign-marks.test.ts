/** Whatever rules of others hold, reading what they do to marks throws nothing. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { NFPROTO_IPV4 } from "../../../../ffi/netlink/constants.ts";
import type { Expression } from "../../../../ffi/netlink/nftables/expressions.ts";
import type { Mark } from "../../../../ffi/types.ts";
import {
  foreignMarks,
  legacyMarkWrites,
  markWrites,
} from "../../../../src/capture/live/foreign-marks.ts";

const register = fc.integer({ min: 1, max: 3 });
const word = fc.uint8Array({ minLength: 4, maxLength: 4 });
const bytes = fc.uint8Array({ maxLength: 40 });
const other = fc.record({
  kind: fc.constant("other" as const),
  name: fc.constantFrom("target", "match", "ct", "numgen"),
  data: bytes,
});
const expression: fc.Arbitrary<Expression> = fc.oneof(
  other,
  fc.record({ kind: fc.constant("immediate" as const), dreg: register, data: bytes }),
  fc.record({ kind: fc.constant("meta" as const), key: fc.constant(3), dreg: register }),
  fc.record({ kind: fc.constant("ct" as const), key: fc.constant(3), dreg: register }),
  fc.record({
    kind: fc.constant("bitwise" as const),
    ...{ sreg: register, dreg: register, mask: word, xor: word },
  }),
  fc.record({ kind: fc.constant("meta set" as const), key: fc.constant(3), sreg: register }),
);
const place = { family: NFPROTO_IPV4, table: "t", chain: "c" };
const ours = { value: 1 as Mark, mask: 1 };

test("random expressions and structures", () => {
  fc.assert(
    fc.property(fc.array(expression, { maxLength: 8 }), (expressions) => {
      for (const write of markWrites({ ...place, expressions })) {
        expect(write.mask >>> 0).toBe(write.mask);
        expect(foreignMarks(ours, [6], [write])).toEqual([]);
        foreignMarks(ours, [4], [write]);
      }
    }),
  );
  fc.assert(
    fc.property(fc.constantFrom("MARK", "CONNMARK", "TPROXY", ""), bytes, (name, info) => {
      const target = { name, revision: info.length % 3, info };
      legacyMarkWrites({ family: 2, table: "mangle", matches: [], target });
    }),
  );
});

test("a bit that is kept and flipped is written as well", () => {
  const mask = Uint8Array.of(255, 255, 255, 255);
  const xor = Uint8Array.of(1, 0, 0, 0);
  const expressions: Expression[] = [
    { kind: "meta", key: 3, dreg: 1 },
    { kind: "bitwise", sreg: 1, dreg: 1, mask, xor },
    { kind: "meta set", key: 3, sreg: 1 },
  ];
  const written = markWrites({ ...place, expressions });
  expect(written).toMatchObject([{ to: "packet", mask: 1, value: 1 }]);
  expect(foreignMarks(ours, [4], written)).toHaveLength(1);
});
