/** Tables of iptables-legacy that make no sense: an error that is caught, never an endless loop. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { legacyChains } from "../../../../src/diagnose/snapshot/legacy-table.ts";

test("garbage is chains or a RangeError", () => {
  const offsets = fc.array(fc.integer({ min: 0, max: 600 }), { minLength: 5, maxLength: 5 });
  fc.assert(
    fc.property(
      fc.constantFrom(4 as const, 6 as const),
      fc.uint8Array({ maxLength: 600 }),
      offsets,
      offsets,
      (family, entries, chains, policies) => {
        try {
          legacyChains(family, "filter", { hooks: 0x1f, chains, policies, entries });
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
        }
      },
    ),
  );
});
