import { expect, test } from "bun:test";
import {
  connectionFields,
  connectionLine,
  countersFields,
  countersLine,
} from "../../../src/log/connection-lines.ts";
import { sumCounters } from "../../../src/workers/counters.ts";

const event = {
  kind: "forwarded",
  worker: 2,
  protocol: "tcp",
  id: 7,
  time: 0,
  state: "relaying",
  client: "192.0.2.7:40000",
  local: "8.8.8.8:80",
  upstream: "10.0.0.1:8080",
  source: "self",
  sent: 5,
  received: 12,
  sentDatagrams: 0,
  receivedDatagrams: 0,
  ms: 30,
  idleMs: 10,
  endedBy: "client",
  error: "",
} as const;

test("the access log says where to, as whom, how much, and who ended it", () => {
  const ends = "tcp://192.0.2.7:40000 to tcp://8.8.8.8:80";
  expect(connectionLine(event)).toBe(
    `[ ] ${ends} by tcp://10.0.0.1:8080 as self, 5 bytes out, 12 in, 30 ms: ended by client`,
  );
  const plain = { ...event, upstream: "8.8.8.8:80", source: "client", error: "idle timeout" };
  expect(connectionLine(plain)).toBe(`[-] ${ends}, 5 bytes out, 12 in, 30 ms: idle timeout`);
  expect(connectionLine({ ...event, kind: "accepted" })).toBe(`[.] Accepted: ${ends}`);
  expect(connectionLine({ ...event, kind: "reached" })).toBe(
    `[.] Reached tcp://10.0.0.1:8080 as self, 30 ms: ${ends}`,
  );
  expect(connectionLine({ ...event, kind: "open" })).toBe(
    `[=] Worker 2, 7, relaying: ${ends} by tcp://10.0.0.1:8080 as self, 5 bytes out, 12 in, ` +
      "30 ms old, idle for 10 ms",
  );
});

test("JSON has what is known by then, and no more", () => {
  const ends = { client: event.client, original_destination: event.local };
  const known = { protocol: "tcp", worker: 2, id: 7, ...ends };
  const where = { upstream: event.upstream, source: "self" };
  const bytes = { sent: 5, received: 12, ms: 30 };
  const fields = (kind: "accepted" | "reached" | "forwarded" | "open") =>
    connectionFields({ ...event, kind });
  expect(fields("accepted")).toEqual({ event: "accepted", ...known });
  expect(fields("reached")).toEqual({ event: "reached", ...known, ...where, ms: 30 });
  expect(fields("forwarded")).toEqual({
    ...{ event: "forwarded", ...known, ...where, ...bytes },
    ...{ ended_by: "client", error: "" },
  });
  expect(fields("open")).toEqual({
    ...{ event: "open", ...known, ...where, ...bytes },
    ...{ state: "relaying", idle_ms: 10 },
  });
});

const session = {
  ...event,
  protocol: "udp",
  state: "confirmed",
  sentDatagrams: 2,
  receivedDatagrams: 3,
  endedBy: "proxy",
  error: "idle",
} as const;

test("of a session the datagrams are told too; to be idle is its usual end", () => {
  const ends = "udp://192.0.2.7:40000 to udp://8.8.8.8:80";
  const by = `${ends} by udp://10.0.0.1:8080 as self, 2 datagrams (5 bytes) out, 3 (12) in`;
  expect(connectionLine(session)).toBe(`[ ] ${by}, 30 ms: idle`);
  const refused = { ...session, endedBy: "upstream", error: "refused by upstream" } as const;
  expect(connectionLine(refused)).toBe(`[-] ${by}, 30 ms: refused by upstream`);
  expect(connectionLine({ ...session, kind: "accepted" })).toBe(`[.] Accepted: ${ends}`);
  expect(connectionLine({ ...session, kind: "reached" })).toBe(
    `[.] Reached udp://10.0.0.1:8080 as self, 30 ms: ${ends}`,
  );
  expect(connectionLine({ ...session, kind: "open" })).toBe(
    `[=] Worker 2, 7, confirmed: ${by}, 30 ms old, idle for 10 ms`,
  );
  expect(connectionFields(session)).toEqual({
    ...{ event: "forwarded", protocol: "udp", worker: 2, id: 7, client: event.client },
    ...{ original_destination: event.local, upstream: event.upstream, source: "self" },
    ...{ sent: 5, received: 12, sent_datagrams: 2, received_datagrams: 3 },
    ...{ ms: 30, ended_by: "proxy", reason: "idle" },
  });
});

test("counters are all there, by Worker and in sum", () => {
  const counters = { ...sumCounters([]), accepted: 3, upstreamRests: 1 };
  expect(countersLine(2, counters)).toMatch(/^\[=\] Worker 2: accepted 3, .*upstream rests 1,.*$/);
  expect(countersLine(0, counters)).toStartWith("[=] All workers: ");
  expect(countersFields(2, counters)).toMatchObject({ worker: 2, accepted: 3, upstream_rests: 1 });
  expect(countersFields(0, counters)).not.toHaveProperty("worker");
  expect(Object.keys(countersFields(1, counters)).length).toBe(Object.keys(counters).length + 2);
});
