import { expect, test } from "bun:test";
import { Unanswered } from "../../../src/forward/unanswered.ts";

test("why an upstream has not answered is told once for each, and for a bounded number", () => {
  const told: string[] = [];
  const unanswered = new Unanswered((text) => told.push(text));
  const client = Uint8Array.of(10, 0, 0, 2);
  const at = (last: number, port = 80) => {
    return { address: Uint8Array.of(192, 0, 2, last), port, scopeId: 0 };
  };
  unanswered.tell(at(1), client, true);
  unanswered.tell(at(1), client, true);
  unanswered.tell(at(2), client, false);
  expect(told).toEqual([
    expect.stringMatching(/^upstream 192\.0\.2\.1:80 has not answered 10\.0\.0\.2: it is on this/),
    expect.stringMatching(/^upstream 192\.0\.2\.2:80 .* MASQUERADE of containers/),
  ]);
  for (let port = 1; port < 1000; port++) unanswered.tell(at(3, port), client, false);
  expect(told).toHaveLength(100);
});
