import { expect, test } from "bun:test";
import {
  connectionFields,
  connectionLine,
  countersFields,
  countersLine,
} from "../../../src/log/connection-lines.ts";
import { sumValues } from "../../../src/workers/counters.ts";
import { ended, endReasonList, endText } from "../../../src/workers/end-reason.ts";

const event = {
  kind: "forwarded",
  worker: 2,
  protocol: "tcp",
  id: "2.7.1",
  time: 0,
  state: "relaying",
  client: "192.0.2.7:40000",
  local: "8.8.8.8:80",
  upstream: "10.0.0.1:8080",
  source: "self",
  clientBytes: 5,
  upstreamBytes: 12,
  clientDatagrams: 0,
  upstreamDatagrams: 0,
  ms: 30,
  idleMs: 10,
  end: ended("done", "client"),
} as const;

test("the access log says where to, as whom, how much, and who ended it", () => {
  const ends = "tcp://192.0.2.7:40000 to tcp://8.8.8.8:80";
  expect(connectionLine(event)).toBe(
    `[ ] ${ends} by tcp://10.0.0.1:8080 as self, 5 bytes out, 12 in, 30 ms: ended by client`,
  );
  const plain = { ...event, upstream: "8.8.8.8:80", source: "client", end: ended("idle-timeout") };
  expect(connectionLine(plain)).toBe(`[-] ${ends}, 5 bytes out, 12 in, 30 ms: idle timeout`);
  expect(connectionLine({ ...event, kind: "accepted" })).toBe(`[.] Accepted: ${ends}`);
  expect(connectionLine({ ...event, kind: "reached" })).toBe(
    `[.] Reached tcp://10.0.0.1:8080 as self, 30 ms: ${ends}`,
  );
  expect(connectionLine({ ...event, kind: "open" })).toBe(
    `[=] 2.7.1, relaying: ${ends} by tcp://10.0.0.1:8080 as self, 5 bytes out, 12 in, ` +
      "30 ms old, idle for 10 ms",
  );
});

test("JSON has what is known by then, and no more", () => {
  const ends = { client: event.client, original_destination: event.local };
  const known = { protocol: "tcp", worker: 2, id: "2.7.1", ...ends };
  const where = { upstream: event.upstream, source: "self" };
  const bytes = { client_bytes: 5, upstream_bytes: 12, ms: 30 };
  const fields = (kind: "accepted" | "reached" | "forwarded" | "open") =>
    connectionFields({ ...event, kind });
  expect(fields("accepted")).toEqual({ event: "accepted", ...known });
  expect(fields("reached")).toEqual({ event: "reached", ...known, ...where, ms: 30 });
  expect(fields("forwarded")).toEqual({
    ...{ event: "forwarded", ...known, ...where, ...bytes },
    ...{ ended_by: "client", reason: "done" },
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
  clientDatagrams: 2,
  upstreamDatagrams: 3,
  end: ended("idle-timeout"),
} as const;

const unreachable = ended("unreachable", "upstream", { call: "", errno: 111 });

test("of a session the datagrams are told too; to be idle is its usual end", () => {
  const ends = "udp://192.0.2.7:40000 to udp://8.8.8.8:80";
  const by = `${ends} by udp://10.0.0.1:8080 as self, 2 datagrams (5 bytes) out, 3 (12) in`;
  expect(connectionLine(session)).toBe(`[ ] ${by}, 30 ms: idle`);
  const refused = { ...session, end: unreachable };
  expect(connectionLine(refused)).toBe(`[-] ${by}, 30 ms: refused by upstream`);
  expect(connectionLine({ ...session, kind: "accepted" })).toBe(`[.] Accepted: ${ends}`);
  expect(connectionLine({ ...session, kind: "reached" })).toBe(
    `[.] Reached udp://10.0.0.1:8080 as self, 30 ms: ${ends}`,
  );
  expect(connectionLine({ ...session, kind: "open" })).toBe(
    `[=] 2.7.1, confirmed: ${by}, 30 ms old, idle for 10 ms`,
  );
  expect(connectionFields(session)).toEqual({
    ...{ event: "forwarded", protocol: "udp", worker: 2, id: "2.7.1", client: event.client },
    ...{ original_destination: event.local, upstream: event.upstream, source: "self" },
    ...{ client_bytes: 5, upstream_bytes: 12, client_datagrams: 2, upstream_datagrams: 3 },
    ...{ ms: 30, ended_by: "proxy", reason: "idle-timeout" },
  });
});

test("how one ended is told in the same words, whatever it was, and nothing is empty", () => {
  const fields = (end: typeof event.end) => {
    const known = Object.entries(connectionFields({ ...event, end })).slice(-5);
    return Object.fromEntries(known.filter(([, value]) => value !== undefined));
  };
  const failed = ended("connect-failed", "upstream", { call: "connect", errno: 111 });
  expect(fields(failed)).toMatchObject({ call: "connect", error: "ECONNREFUSED" });
  expect(endText(failed, "tcp")).toBe("connect: Connection refused (ECONNREFUSED)");
  expect(fields(unreachable)).toEqual({
    ...{ ended_by: "upstream", reason: "unreachable", error: "ECONNREFUSED" },
  });
  const rejected = ended("dial-rejected", "proxy", undefined, "why");
  expect(fields(rejected)).toEqual({ ended_by: "proxy", reason: "dial-rejected", detail: "why" });
  for (const reason of endReasonList) {
    for (const protocol of ["tcp", "udp"] as const) {
      expect(endText(ended(reason), protocol)).toMatch(/^\S.*\S$/);
    }
    expect(JSON.stringify(fields(ended(reason)))).not.toMatch(/""|null/);
  }
});

test("counters are all there, by Worker and in sum", () => {
  const counters = { ...sumValues([]), accepted: 3, upstreamBackOffs: 1 };
  expect(countersLine(2, counters)).toMatch(
    /^\[=\] Worker 2: accepted 3, .*upstream back offs 1,.*$/,
  );
  expect(countersLine(0, counters)).toStartWith("[=] All workers: ");
  expect(countersFields(2, counters)).toMatchObject({
    worker: 2,
    accepted: 3,
    upstream_back_offs: 1,
  });
  expect(countersFields(0, counters)).not.toHaveProperty("worker");
  expect(Object.keys(countersFields(1, counters)).length).toBe(Object.keys(counters).length + 2);
});
