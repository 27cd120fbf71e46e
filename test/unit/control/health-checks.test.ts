import { expect, test } from "bun:test";
import { once } from "node:events";
import { createServer } from "node:net";
import { completePool } from "../../../src/config/pool.ts";
import { HealthChecks } from "../../../src/control/pools/health-checks.ts";
import type { HealthTarget } from "../../../src/workers/health-task.ts";
import { UpstreamBoard } from "../../../src/workers/upstream-board.ts";
import { eventually } from "../../helpers/tproxy.ts";

const entry = new URL("../../../src/worker.ts", import.meta.url);
const loopback = Uint8Array.of(127, 0, 0, 1);
const target = { scheme: undefined, host: "a.example", port: 80 as never };

function targetAt(slot: number, port: number, rise = 1): HealthTarget {
  const own = { type: "tcp" as const, interval: 100, timeout: 100, rise, fall: 1 };
  const { check } = completePool({ name: "web", to: [target], check: own }, {});
  const address = { address: loopback, port, scopeId: 0 };
  return { slot, address, host: "a.example", mark: undefined, check: check as never };
}

test("targets come, change and go while the Worker runs", async () => {
  const server = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const board = new UpstreamBoard(UpstreamBoard.memory(1));
  const found: string[] = [];
  const checks = new HealthChecks(entry, board.memory, {
    found: (slot, isUp, reason) => void found.push(`${slot} ${isUp ? "up" : `down: ${reason}`}`),
    warn: (text) => void found.push(text),
  });
  try {
    // Nothing is to be checked: no Worker, and nothing to stop.
    checks.check([]);
    checks.check([targetAt(3, port), targetAt(4, 1)]);
    await eventually("the dead one is found", () => found.includes("4 down: connection refused"));
    await eventually("the other one is checked", () => board.checkCounts(3).succeeded > 1);
    expect(board.checkCounts(3).failed).toBe(0);
    expect(board.checkCounts(4).succeeded).toBe(0);
    // Other settings go on from the same state; slot 3 is checked no more.
    checks.check([targetAt(4, port, 2)]);
    await eventually("it is found up", () => found.includes("4 up"));
    const before = board.checkCounts(3).succeeded;
    const later = board.checkCounts(4).succeeded + 3;
    await eventually("the rest goes on", () => board.checkCounts(4).succeeded >= later);
    expect(board.checkCounts(3).succeeded - before).toBeLessThanOrEqual(1);
    expect(found).toEqual(["4 down: connection refused", "4 up"]);
  } finally {
    checks.stop();
    server.close();
  }
});

test("where the thread dies again and again, that is told, and states stay", async () => {
  const warned: string[] = [];
  const board = new UpstreamBoard(UpstreamBoard.memory(1));
  board.set(5, 4, 100);
  const dying = new URL("../../helpers/no-such-worker.ts", import.meta.url);
  const checks = new HealthChecks(dying, board.memory, {
    found: () => {},
    warn: (text) => void warned.push(text),
  });
  checks.check([targetAt(5, 1)]);
  await eventually("it is given up", () =>
    warned.some((text) => text.startsWith("upstreams are checked no more: workers died")),
  );
  expect(warned.filter((text) => text.includes("begins again")).length).toBeGreaterThan(1);
  expect(board.state(5)).toBe(4);
  checks.stop();
});
