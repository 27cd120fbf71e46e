import { expect, test } from "bun:test";
import { upstreamFigures } from "../../../../src/control/metrics/upstream-figures.ts";
import type {
  AddressStatus,
  PoolStatus,
  UpstreamStatus,
} from "../../../../src/control/server/status.ts";

const counters = {
  ...{ connects: 5, refused: 1, timeout: 0, unreachable: 0, reset: 0, local: 0, open: 2 },
  ...{ clientBytes: 0, upstreamBytes: 0, sessions: 7, openSessions: 3, backsOff: 0 },
};

const address = (text: string, isUp = true): AddressStatus => ({
  ...{ address: text, isUp, reason: "", since: 0, counters },
  check: { succeeded: 4, failed: 2, lastMs: 1.5 },
});

const upstream = (name: string, more: Partial<UpstreamStatus> = {}): UpstreamStatus => ({
  ...{ name, state: "up", reason: "", since: 0, admin: "ready", weight: 100, isBackup: false },
  ...{ addresses: [address("192.0.2.1:80")], ...more },
});

const figures = (...upstreams: UpstreamStatus[]) =>
  upstreamFigures({ name: "web", balance: "round-robin", check: "tcp", upstreams } as PoolStatus);

test("an upstream has the figures of its address, by its name", () => {
  expect(figures(upstream("web1"))).toEqual([
    {
      ...{ pool: "web", upstream: "web1", isUp: true, isDraining: false, weight: 100 },
      counters: {
        ...{ open: 5, connects: 12 },
        failures: { refused: 1, timeout: 0, unreachable: 0, reset: 0, local: 0 },
      },
      checks: { results: { ok: 4, failed: 2 }, lastMs: 1.5 },
    },
  ]);
});

test("further addresses of a name are called by themselves, and no two series are one", () => {
  const addresses = [
    address("192.0.2.3:80", false),
    address("192.0.2.1:80"),
    address("192.0.2.2:80"),
  ];
  const all = figures(
    upstream("a.example:80", { addresses }),
    upstream("b.example:80", { addresses }),
    upstream("192.0.2.2:80", { addresses: [address("192.0.2.2:80")] }),
  );
  const names = all.map((each) => each.upstream);
  expect(names).toEqual([
    ...["a.example:80", "a.example:80/192.0.2.2:80", "192.0.2.3:80"],
    ...["b.example:80", "b.example:80/192.0.2.2:80", "b.example:80/192.0.2.3:80"],
    "192.0.2.2:80",
  ]);
  expect(new Set(names).size).toBe(names.length);
  expect(all.map(({ isUp }) => isUp)).toEqual([true, true, false, true, true, false, true]);
});

test("what an administrator has asked for counts", () => {
  const [drained] = figures(upstream("a", { admin: "drain", state: "drained" }));
  expect([drained?.isUp, drained?.isDraining]).toEqual([true, true]);
  const [down] = figures(upstream("a", { admin: "down", state: "down" }));
  expect([down?.isUp, down?.isDraining]).toEqual([false, false]);
});

test("a name without an address is down, and the address that clients ask for is not", () => {
  const [unknown] = figures(upstream("a", { addresses: [], state: "down" }));
  expect([unknown?.isUp, unknown?.counters]).toEqual([false, undefined]);
  const [original] = figures(upstream("original", { addresses: [] }));
  expect(original?.isUp).toBe(true);
});
