import { expect, test } from "bun:test";
import { Quota } from "../../../src/listen/quota.ts";

test("a quota is spent once, and 0 never", () => {
  let spent = 0;
  const three = new Quota(3, () => spent++);
  for (let i = 0; i < 2; i++) three.spend();
  expect(spent).toBe(0);
  for (let i = 0; i < 5; i++) three.spend();
  expect(spent).toBe(1);
  const endless = new Quota(0, () => spent++);
  for (let i = 0; i < 5; i++) endless.spend();
  expect(spent).toBe(1);
});
