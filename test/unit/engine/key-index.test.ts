import { expect, test } from "bun:test";
import fc from "fast-check";
import { KeyIndex } from "../../../src/engine/key-index.ts";

const key = fc.array(fc.constantFrom(0, 1, 2, 0x10000, 0xffffffff), { minLength: 3, maxLength: 3 });
const steps = fc.array(fc.record({ key, remove: fc.boolean() }), { maxLength: 200 });

test("finds what a Map would find, in slots of their own", () => {
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 40 }), fc.integer(), (all, capacity, seed) => {
      const index = new KeyIndex(capacity, 3, () => seed);
      const model = new Map<string, number>();
      for (const step of all) {
        const words = Uint32Array.from(step.key);
        const name = words.join();
        const known = model.get(name);
        expect(index.find(words)).toBe(known ?? -1);
        if (known !== undefined && step.remove) {
          index.remove(known);
          model.delete(name);
        } else if (known === undefined) {
          const slot = index.insert(words);
          expect(slot >= 0).toBe(model.size < capacity);
          if (slot < 0) continue;
          expect([...model.values()]).not.toContain(slot);
          expect(slot).toBeLessThan(capacity);
          model.set(name, slot);
        }
        expect(index.size).toBe(model.size);
      }
    }),
  );
});
