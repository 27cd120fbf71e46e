/** What clients that stall, flood or do not read can make the server hold. */

import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventStream } from "../../../../src/control/admin/event-stream.ts";
import {
  type Handler,
  type HttpBounds,
  HttpServer,
} from "../../../../src/control/admin/http-server.ts";
import { cleanUp, cleanups } from "../../../helpers/forward.ts";
import { eventually } from "../../../helpers/tproxy.ts";

afterEach(cleanUp);

const roomy: HttpBounds = {
  ...{ connectionsMax: 8, requestsPerSecond: 1000, requestMs: 60_000, stalledMs: 60_000 },
};

function serve(handler: Handler, bounds: Partial<HttpBounds> = {}) {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-http-"));
  const path = join(folder, "s.sock");
  const server = new HttpServer(path, handler, { ...roomy, ...bounds });
  cleanups.push(() => {
    server.stop();
    rmSync(folder, { recursive: true });
  });
  /** A connection that sends `text` and reads nothing until it is told to. */
  const open = (text: string): Socket & { isClosed?: boolean } => {
    const socket: Socket & { isClosed?: boolean } = connect({ path });
    socket.on("error", () => {});
    socket.on("close", () => {
      socket.isClosed = true;
    });
    cleanups.push(() => socket.destroy());
    socket.write(text);
    return socket;
  };
  const get = async () => {
    const response = await fetch("http://localhost/", { unix: path });
    return [response.status, await response.text()];
  };
  return { server, open, get };
}

const ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ok: Handler = () => new Response("ok");

test("stalled clients give way to new ones, and cost a bounded number of descriptors", async () => {
  const { server, open, get } = serve(ok);
  const before = readdirSync("/proc/self/fd").length;
  const stalled = Array.from({ length: 100 }, (_, i) => open(i % 2 === 0 ? "" : ask.slice(0, 20)));
  await eventually("all but the last ones to be ended", () => {
    return stalled.filter(({ isClosed }) => isClosed).length === 100 - roomy.connectionsMax;
  });
  expect(server.connections).toBe(roomy.connectionsMax);
  // One end of each here, and the server's.
  expect(readdirSync("/proc/self/fd").length - before).toBeLessThan(3 * roomy.connectionsMax);
  expect(await get()).toEqual([200, "ok"]);
});

test("a request that does not arrive in time is not waited for", async () => {
  const { server, open } = serve(ok, { requestMs: 50 });
  const slow = open(ask.slice(0, 10));
  await eventually("the end", () => slow.isClosed === true);
  expect(server.connections).toBe(0);
});

test("more requests in a second than there may be are refused", async () => {
  const { get } = serve(ok, { requestsPerSecond: 3 });
  const answers = [];
  for (let i = 0; i < 10; i++) answers.push((await get())[0]);
  expect(answers.filter((status) => status === 200).length).toBeLessThanOrEqual(6);
  expect(answers).toContain(429);
});

test("what a handler throws is an error of the API, and a wrong request is answered", async () => {
  const { open, get } = serve(() => {
    throw new Error("broken");
  });
  const [status, text] = await get();
  expect([status, JSON.parse(String(text)).detail]).toEqual([500, "Error: broken"]);
  let answer = "";
  const wrong = open("\x16\x03\x01 what?\r\n\r\n");
  wrong.on("data", (bytes) => {
    answer += bytes;
  });
  await eventually("the end", () => wrong.isClosed === true);
  expect(answer).toStartWith("HTTP/1.1 400 ");
});

test("a large answer arrives in full, and is given up where nobody takes it", async () => {
  const large = "x".repeat(5_000_000);
  const { server, open, get } = serve(() => new Response(large), { stalledMs: 100 });
  expect((await get())[1] === large).toBe(true);
  const reader = open(ask);
  reader.pause();
  await eventually("the connection", () => server.connections === 1);
  await eventually("its end", () => server.connections === 0);
});

test("a stream's slow reader loses events, and none pile up; its end is noticed", async () => {
  let offered = 0;
  let sent = 0;
  let isOpen = false;
  const event = "y".repeat(10_000);
  const { server, open } = serve(() =>
    eventStream((sink) => {
      isOpen = true;
      const timer = setInterval(() => {
        offered++;
        if (sink.offer("status", { event })) sent++;
      }, 1);
      return () => {
        clearInterval(timer);
        isOpen = false;
      };
    }),
  );
  const reader = open(ask);
  reader.pause();
  await eventually("events that are dropped", () => offered - sent > 100);
  // As many as the socket holds, and one more.
  expect(sent).toBeLessThan(100);
  const held = sent;
  reader.resume();
  await eventually("further events", () => sent > held + 10);
  reader.destroy();
  await eventually("the end of the stream", () => !isOpen);
  expect(server.connections).toBe(0);
});

test("the newest lines wait for a slow reader, and the lost ones are counted", async () => {
  const state: { push?: (line: number) => void } = {};
  const { open } = serve(() =>
    eventStream((sink) => {
      state.push = (line) => sink.push("line", { line, padding: "z".repeat(2_000) });
      return () => {};
    }),
  );
  const reader = open(ask);
  reader.pause();
  await eventually("the stream", () => state.push !== undefined);
  const count = 5_000;
  for (let line = 1; line <= count; line++) state.push?.(line);
  let text = "";
  reader.on("data", (bytes) => {
    text += bytes;
  });
  reader.resume();
  await eventually("the last line", () => text.includes(`"line":${count},`));
  const lines = [...text.matchAll(/"line":(\d+),/g)].map(([, line]) => Number(line));
  const lost = [...text.matchAll(/"lines":(\d+)/g)].reduce((sum, [, n]) => sum + Number(n), 0);
  expect(lines).toEqual(lines.toSorted((a, b) => a - b));
  expect(lost).toBeGreaterThan(0);
  expect(lines.length + lost).toBe(count);
});
