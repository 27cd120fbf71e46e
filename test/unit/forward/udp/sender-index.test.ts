import { expect, test } from "bun:test";
import fc from "fast-check";
import { KEY_WORDS } from "../../../../src/engine/flow-key.ts";
import { SenderIndex } from "../../../../src/forward/udp/sender-index.ts";

const SESSIONS = 6;

const step = fc.oneof(
  fc.record({
    does: fc.constant("name" as const),
    sender: fc.nat(3),
    session: fc.nat(SESSIONS - 1),
  }),
  fc.record({ does: fc.constant("end" as const), session: fc.nat(SESSIONS - 1) }),
);

const keyOf = (sender: number) => new Uint32Array(KEY_WORDS).fill(sender);

test("a socket's datagrams belong to the session it has named last, while that is open", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer(), (steps, seed) => {
      const index = new SenderIndex(SESSIONS, () => seed);
      const senderOf = new Map<number, number>();
      const named = new Map<number, number>();
      for (const each of steps) {
        if (each.does === "end") {
          index.end(each.session);
          const sender = senderOf.get(each.session);
          senderOf.delete(each.session);
          if (sender !== undefined && named.get(sender) === each.session) named.delete(sender);
        } else {
          // A session has one sender for life: it is a part of its key.
          const sender = senderOf.get(each.session) ?? each.sender;
          index.name(keyOf(sender), each.session);
          senderOf.set(each.session, sender);
          named.set(sender, each.session);
        }
        for (let sender = 0; sender < 4; sender++) {
          expect(index.find(keyOf(sender))).toBe(named.get(sender) ?? -1);
        }
        expect(index.size).toBe(new Set(senderOf.values()).size);
      }
    }),
  );
});
