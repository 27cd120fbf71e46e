import { expect, test } from "bun:test";
import { isDown, only, type StatusView, statusText } from "../../../src/cli/words/status.ts";

const now = new Date().toISOString();
const view: StatusView = {
  ...{ version: "1.2.3", pid: 7, start_time: now, generation: 3, workers: 2, is_stopping: true },
  last_reload: { time: now, is_successful: false, problems: ["x"] },
  routes: { installed: true, table: "tproxyd" },
  services: [
    {
      ...{ name: "web", state: "up", pool: "servers" },
      listeners: [
        { protocol: "tcp", address: "[::]:53" },
        { protocol: "udp", address: "[::]:53" },
        { protocol: "tcp", address: "192.0.2.1:80" },
      ],
      counters: { active: 2, active_sessions: 1, accepted: 30, client_bytes: 4000 },
    },
  ],
  pools: [
    {
      name: "servers",
      upstreams: [
        {
          ...{ name: "web1", state: "down", reason: "refused", since: now, weight: 50 },
          is_backup: true,
          addresses: [
            {
              ...{ address: "192.0.2.7:80", is_up: false, counters: { open: 3, timeout: 4 } },
              check: { succeeded: 1, failed: 2, last_ms: 12 },
            },
          ],
        },
      ],
    },
    { name: "others", upstreams: [] },
  ],
};

test("services, upstreams, rates of two samples, and what is wrong", () => {
  const before = {
    ...view,
    services: view.services.map((service) => ({ ...service, counters: { client_bytes: 2000 } })),
  };
  const text = statusText(view, { before, seconds: 2 });
  expect(text).toMatch(/^tproxy 1\.2\.3, up \d+ ms, generation 3 /);
  expect(text).toMatch(/ \(a reload was refused \d+ ms ago\), 2 workers, stopping\n/);
  expect(text).toMatch(/\nweb +up +tcp,udp \[::\]:53 \(1 more\) +3 +15 +1\.0 kB\/s +0 B\/s /);
  expect(text).toMatch(
    /\nservers\/web1 +down \d+ ms: refused +12 ms +3 +50 backup +4 +192\.0\.2\.7:80\n/,
  );
  expect(text).toEndWith("routes: in place (table tproxyd)\n");
});

test("a name chooses a service with its pool, a pool, or an upstream", () => {
  expect(only(view, "web")?.pools.map(({ name }) => name)).toEqual(["servers"]);
  expect(only(view, "others")).toMatchObject({ services: [], pools: [{ name: "others" }] });
  const one = only(view, "servers/web1") as StatusView;
  expect(one).toMatchObject({ services: [], pools: [{ upstreams: [{ name: "web1" }] }] });
  expect(only(view, "servers/web2")).toBeUndefined();
  expect([isDown(one), isDown(only(view, "others") as StatusView)]).toEqual([true, false]);
});
