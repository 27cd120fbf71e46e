/** Values that are known in part: what is said of one holds for all that it may turn out to be. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  NFT_CMP_EQ,
  NFT_CMP_GT,
  NFT_CMP_GTE,
  NFT_CMP_LT,
  NFT_CMP_LTE,
  NFT_CMP_NEQ,
} from "../../../../ffi/netlink/nftables/expr/cmp.ts";
import {
  type Bits,
  compares,
  fromHost32,
  host32,
  known,
  masked,
  within,
} from "../../../../src/diagnose/nft-evaluator/bits.ts";

const length = 3;
const bytes = fc.uint8Array({ minLength: length, maxLength: length });
const ops = [NFT_CMP_EQ, NFT_CMP_NEQ, NFT_CMP_LT, NFT_CMP_LTE, NFT_CMP_GT, NFT_CMP_GTE];

/** A value of which `mask` is known, and one that it may be. */
const partial = fc.tuple(bytes, bytes, bytes).map(([value, mask, rest]) => {
  const bits: Bits = { value: value.map((byte, i) => byte & (mask[i] ?? 0)), known: mask };
  const whole = bits.value.map((byte, i) => byte | ((rest[i] ?? 0) & ~(mask[i] ?? 0)));
  return { bits, whole };
});

test("a comparison that is certain is so for every value", () => {
  fc.assert(
    fc.property(partial, bytes, fc.constantFrom(...ops), ({ bits, whole }, data, op) => {
      const answer = compares(op, bits, data);
      if (answer !== "maybe") expect(compares(op, known(whole), data)).toBe(answer);
      expect(compares(op, known(whole), data)).not.toBe("maybe");
    }),
  );
});

test("so is a range, and a mask keeps what is known", () => {
  fc.assert(
    fc.property(partial, bytes, bytes, bytes, ({ bits, whole }, one, other, xor) => {
      const [first, last] = Buffer.compare(one, other) < 0 ? [one, other] : [other, one];
      const answer = within(bits, first, last);
      if (answer !== "maybe") expect(within(known(whole), first, last)).toBe(answer);
      const { value, known: mask } = masked(bits, one, xor);
      const all = masked(known(whole), one, xor).value;
      expect(value).toEqual(all.map((byte, i) => byte & (mask[i] ?? 0)));
    }),
  );
});

test("what a mask takes away is known", () => {
  const { known: mask } = masked(
    { value: Uint8Array.of(0), known: Uint8Array.of(0) },
    Uint8Array.of(0x0f),
    Uint8Array.of(0),
  );
  expect(mask).toEqual(Uint8Array.of(0xf0));
  expect(fromHost32(host32(0xdead_beef, 0xffff_0000))).toEqual({
    value: 0xdead_0000,
    known: 0xffff_0000,
  });
});
