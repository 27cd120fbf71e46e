import { expect, test } from "bun:test";
import type {
  PoolStatus,
  ServerStatus,
  ServiceStatus,
  UpstreamStatus,
} from "../../../src/control/server/status.ts";
import { statusLine } from "../../../src/control/systemd/status-line.ts";

const upstream = (name: string, state: "up" | "down"): UpstreamStatus => ({
  ...{ name, addresses: [], state, reason: "", since: 0 },
  ...{ admin: "ready", weight: 100, isBackup: false },
});

function status(services: number, active: number, sessions: number, down: readonly string[]) {
  const pool: PoolStatus = {
    ...{ name: "web", balance: "round-robin", check: undefined },
    upstreams: [upstream("10.0.0.9:80", "up"), ...down.map((name) => upstream(name, "down"))],
  };
  return {
    generation: 3,
    services: Array.from({ length: services }, () => ({ state: "up" }) as ServiceStatus),
    pools: [pool],
    counters: { active, activeSessions: sessions },
  } as unknown as ServerStatus;
}

test("the line of systemctl status", () => {
  expect(statusLine(status(1, 0, 1, []))).toBe(
    "configuration 3; 1 service; 0 connections and 1 session open",
  );
  expect(statusLine(status(2, 1, 0, ["a:1", "b:1"]))).toBe(
    "configuration 3; 2 services; 1 connection and 0 sessions open; down: web/a:1, web/b:1",
  );
  expect(statusLine(status(2, 1, 0, ["a:1", "b:1", "c:1", "d:1", "e:1"]))).toEndWith(
    "down: web/a:1, web/b:1, web/c:1 and 2 more",
  );
});
