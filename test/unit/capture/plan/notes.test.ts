import { expect, test } from "bun:test";
import type { Port } from "../../../../ffi/types.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { planNotes } from "../../../../src/capture/plan/notes.ts";
import { makePlan } from "../../../../src/capture/plan/plan.ts";

test("a backend at an own address is not reached past the proxy any more", () => {
  const notes = (bytes: number[], here: boolean) => {
    const address = { family: 4, bytes: Uint8Array.from(bytes) } as const;
    const intent = parseIntent({
      backends: [{ address, port: 8080 as Port, here }],
      protocols: ["tcp"],
    });
    if (!intent.ok) throw new Error(intent.issue.code);
    return planNotes(makePlan(intent.value));
  };
  expect(notes([127, 0, 0, 1], true)).toEqual([]);
  expect(notes([192, 0, 2, 7], false)).toEqual([]);
  expect(notes([192, 0, 2, 7], true)).toEqual([
    expect.stringContaining("the backend 192.0.2.7:8080 (tcp) is an address of this host"),
  ]);
});
