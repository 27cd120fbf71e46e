import { expect, test } from "bun:test";
import {
  type MeasuredPool,
  upstreamFigures,
} from "../../../../src/control/metrics/upstream-figures.ts";
import { UpstreamBoard, UpstreamCounter } from "../../../../src/workers/upstream-board.ts";

type Upstream = MeasuredPool["entries"][number];

const board = new UpstreamBoard(UpstreamBoard.memory(2));
const worker = new UpstreamBoard(board.memory, 1);

const addresses = (...all: (string | [string, boolean])[]): Upstream["addresses"] =>
  new Map(
    all.map((each, slot) => {
      const [text, isUp] = typeof each === "string" ? [each, true] : each;
      return [text, { slot, isUp }];
    }),
  );

const upstream = (name: string, more: Partial<Upstream> = {}): Upstream => ({
  ...{ settings: { name, weight: 100, to: {} }, admin: "ready", weight: undefined },
  ...{ addresses: addresses("192.0.2.1:80"), ...more },
});

const pool = (...entries: Upstream[]) => ({
  ...{ pool: { name: "web", check: {} }, entries, board, revision: 1 },
});

const figures = (...upstreams: Upstream[]) => upstreamFigures(pool(...upstreams));

const decoded = (bytes: Uint8Array = new Uint8Array()) => new TextDecoder().decode(bytes);

const namesOf = (all: ReturnType<typeof figures>) =>
  all.map(({ labels }) => /^pool="web",upstream="(.*)"$/.exec(decoded(labels))?.[1]);

test("an upstream has the figures of its address, by its name, of all Workers", () => {
  board.count(0, UpstreamCounter.connects, 2);
  worker.count(0, UpstreamCounter.connects, 3);
  worker.count(0, UpstreamCounter.refused, 1);
  board.checked(0, true, 1.5);
  const [only, ...rest] = figures(upstream("web1"));
  expect(rest).toEqual([]);
  expect(only).toMatchObject({
    ...{ isUp: true, isDraining: false, weight: 100 },
    ...{ isCounted: true, checks: { succeeded: 1, failed: 0, lastMs: 1.5 } },
  });
  expect(decoded(only?.labels)).toBe('pool="web",upstream="web1"');
  expect(only?.count(UpstreamCounter.connects)).toBe(5);
  worker.count(0, UpstreamCounter.connects, 1);
  expect(only?.count(UpstreamCounter.connects)).toBe(6);
  expect([only?.count(UpstreamCounter.refused), only?.count(UpstreamCounter.open)]).toEqual([1, 0]);
});

test("further addresses of a name are called by themselves, and no two series are one", () => {
  const several = addresses(["192.0.2.3:80", false], "192.0.2.1:80", "192.0.2.2:80");
  const all = figures(
    upstream("a.example:80", { addresses: several }),
    upstream("b.example:80", { addresses: several }),
    upstream("192.0.2.2:80", { addresses: addresses("192.0.2.2:80") }),
  );
  const names = namesOf(all);
  expect(names).toEqual([
    ...["a.example:80", "a.example:80/192.0.2.2:80", "192.0.2.3:80"],
    ...["b.example:80", "b.example:80/192.0.2.2:80", "b.example:80/192.0.2.3:80"],
    "192.0.2.2:80",
  ]);
  expect(new Set(names).size).toBe(names.length);
  expect(all.map(({ isUp }) => isUp)).toEqual([true, true, false, true, true, false, true]);
});

test("what an administrator has asked for counts, also once the figures are made", () => {
  const entry = { ...upstream("a"), admin: "drain" as "ready" | "drain" | "down" };
  const [figure] = figures(entry);
  expect([figure?.isUp, figure?.isDraining]).toEqual([true, true]);
  entry.admin = "down";
  expect([figure?.isUp, figure?.isDraining]).toEqual([false, false]);
  const [weightless] = figures(upstream("a", { weight: 0 }));
  expect([weightless?.isUp, weightless?.isDraining, weightless?.weight]).toEqual([true, true, 0]);
});

test("a name without an address is down, and the address that clients ask for is not", () => {
  const [unknown] = figures(upstream("a", { addresses: addresses() }));
  expect([unknown?.isUp, unknown?.isCounted, unknown?.checks]).toEqual([false, false, undefined]);
  const settings = { name: "original", weight: 100, to: "original" };
  const [original] = figures(upstream("original", { settings, addresses: addresses() }));
  expect([original?.isUp, original?.isCounted]).toEqual([true, false]);
});

test("addresses that come and go have series of their own", () => {
  const entry = { ...upstream("a.example:80"), addresses: addresses("192.0.2.1:80") };
  const measured = { ...pool(entry) };
  expect(namesOf(upstreamFigures(measured))).toEqual(["a.example:80"]);
  entry.addresses = addresses("192.0.2.1:80", "192.0.2.2:80");
  measured.revision++;
  expect(namesOf(upstreamFigures(measured))).toEqual(["a.example:80", "192.0.2.2:80"]);
});
