import { expect, test } from "bun:test";
import { IcmpLimit } from "../../../../src/forward/udp/icmp-limit.ts";

const kernel = { perSecond: 1_000, burst: 50, perPeerMs: 1_000, perPeerMsV6: 1_000 };
const peer = (n: number) => Uint8Array.of(10, 0, n >> 8, n & 255);

/** How many are admitted of `count` tries to the peers that `to` names. */
const admitted = (limit: IcmpLimit, now: number, count: number, to: (i: number) => Uint8Array) =>
  Array.from({ length: count }, (_, i) => limit.admits(to(i), now)).filter(Boolean).length;

test("one host is told six times at once, and then once a second", () => {
  const limit = new IcmpLimit(kernel);
  expect(admitted(limit, 0, 100, () => peer(1))).toBe(6);
  expect(admitted(limit, 999, 100, () => peer(1))).toBe(0);
  expect(admitted(limit, 1_000, 100, () => peer(1))).toBe(1);
  expect(admitted(limit, 60_000, 100, () => peer(1))).toBe(6);
});

test("all hosts together: a burst, and then so many a second", () => {
  const limit = new IcmpLimit(kernel);
  let next = 0;
  const another = () => peer(next++);
  expect(admitted(limit, 0, 19_999, another)).toBe(50);
  let sum = 0;
  for (let now = 10; now <= 1_000; now += 10) sum += admitted(limit, now, 200, another);
  expect(sum).toBe(1_000);
});

test("what is refused to one host does not count for the others", () => {
  const limit = new IcmpLimit(kernel);
  admitted(limit, 0, 10_000, () => peer(1));
  expect(admitted(limit, 0, 44, (i) => peer(2 + i))).toBe(44);
});

test("each family has its own time between two, and 0 is no limit", () => {
  const limit = new IcmpLimit({ ...kernel, perPeerMs: 0, perPeerMsV6: 100 });
  expect(admitted(limit, 0, 40, () => peer(1))).toBe(40);
  const six = new Uint8Array(16).fill(1);
  expect(admitted(limit, 1_000, 40, () => six)).toBe(6);
  expect(admitted(limit, 1_100, 40, () => six)).toBe(1);
});
