import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { JsonTranscript, TextTranscript } from "../../../src/log/transcript.ts";
import { printable } from "../../../src/net/printable.ts";
import { type EndReason, ended } from "../../../src/workers/end-reason.ts";
import type { WorkerEvent } from "../../../src/workers/protocol.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const client = "127.0.0.1:39435";
const local = "8.8.8.8:80";
const connection = (id: number): WorkerEvent => ({ kind: "connection", id, client, local });
const data = (id: number, text: string): WorkerEvent => ({
  kind: "data",
  id,
  client,
  local,
  bytes: encode(text),
});

describe("the text transcript", () => {
  test("is the seed's", () => {
    const transcript = new TextTranscript("tcp");
    const lines = [connection(1), data(1, "GET / HTTP/1.1\r\nHost: 8.8.8.8\r\n\r\n")];
    expect(lines.map((event) => transcript.render(event)).join("")).toBe(
      "[ ] Connection from tcp://127.0.0.1:39435 to tcp://8.8.8.8:80\n" +
        "GET / HTTP/1.1\nHost: 8.8.8.8\n\n",
    );
  });

  test("says again whose data it is when another connection came in between", () => {
    const transcript = new TextTranscript("tcp");
    const events = [connection(1), connection(2), data(1, "a"), data(1, "b"), data(2, "c")];
    expect(events.map((event) => transcript.render(event)).slice(2)).toEqual([
      "[ ] Data from tcp://127.0.0.1:39435 to tcp://8.8.8.8:80\na\n",
      "b\n",
      "[ ] Data from tcp://127.0.0.1:39435 to tcp://8.8.8.8:80\nc\n",
    ]);
  });

  test("an ordinary end shows nothing, an accident one line", () => {
    const transcript = new TextTranscript("tcp");
    const bytes = { clientBytes: 0, upstreamBytes: 0 };
    const closed = (reason: EndReason) =>
      transcript.render({ kind: "closed", id: 1, client, local, ...bytes, end: ended(reason) });
    expect(closed("done") + closed("stopped")).toBe("");
    expect(closed("reset")).toBe("[-] Reset: tcp://127.0.0.1:39435 to tcp://8.8.8.8:80\n");
    expect(closed("idle-timeout")).toStartWith("[-] Silent for too long: ");
    expect(closed("failed")).toStartWith("[-] Failed: ");
  });
});

test("printable text holds no control characters whatever a peer sends, and loses no other", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const text = printable(bytes);
      expect(text.replace(/[\n\t]/g, "")).not.toMatch(/\p{C}/u);
      expect(text === "" || text.endsWith("\n")).toBe(true);
    }),
  );
  expect(printable(encode("tab\there, caf\u00e9 \u{1f600}"))).toBe(
    "tab\there, caf\u00e9 \u{1f600}\n",
  );
  expect(printable(encode("\x1b]0;title\x07\r"))).toBe("\\x1b]0;title\\x07\\x0d\n");
});

test("JSON gives every byte back, as text or in base 64", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const line = new JsonTranscript("tcp").render({ kind: "received", bytes });
      const { text, base64, bytes: length } = JSON.parse(line);
      const back =
        text === undefined ? Buffer.from(base64 as string, "base64") : encode(text as string);
      expect(new Uint8Array(back)).toEqual(new Uint8Array(bytes));
      expect(length).toBe(bytes.length);
    }),
  );
});

test("JSON events are one line each with event and time first", () => {
  const transcript = new JsonTranscript("tcp", () => 0);
  const line = transcript.render({
    kind: "datagram",
    client,
    local,
    bytes: encode("a\nb"),
    upstreamBytes: 3,
  });
  expect(line.trimEnd()).not.toContain("\n");
  expect(JSON.parse(line)).toEqual({
    event: "datagram",
    time: "1970-01-01T00:00:00.000Z",
    level: "info",
    client,
    original_destination: local,
    bytes: 3,
    text: "a\nb",
    upstream_bytes: 3,
    protocol: "udp",
  });
  expect(JSON.parse(transcript.render({ kind: "fault", errno: 111 }))).toMatchObject({
    error: "ECONNREFUSED",
  });
});

test("a connection of listen has the names that one of forward has", () => {
  const transcript = new JsonTranscript("tcp", () => 0);
  expect(JSON.parse(transcript.render(connection(1)))).toMatchObject({
    ...{ event: "accepted", protocol: "tcp", id: 1, client, original_destination: local },
  });
  const end = ended("done", "client");
  const closed = { kind: "closed", id: 1, client, local, clientBytes: 5, upstreamBytes: 7, end };
  expect(JSON.parse(transcript.render(closed as WorkerEvent))).toEqual({
    ...{ event: "forwarded", time: "1970-01-01T00:00:00.000Z", level: "info" },
    ...{ protocol: "tcp", id: 1, client },
    ...{ original_destination: local, client_bytes: 5, upstream_bytes: 7 },
    ...{ ended_by: "client", reason: "done" },
  });
});

test("what is said of a Worker that may carry both names no protocol", () => {
  const line = new JsonTranscript("tcp").render({ kind: "warning", text: "a session was refused" });
  expect(JSON.parse(line)).not.toHaveProperty("protocol");
});

test("a dead worker is told of on one line, whatever its error says", () => {
  const lost = { lost: 3, lostSessions: 4 };
  const died = { kind: "died", worker: 2, error: "\x1b[31mno", isReplaced: true, ...lost } as const;
  expect(new TextTranscript("tcp").render(died)).toBe(
    "[!] Worker 2 died with 3 connections and 4 sessions, another takes its place: \\x1b[31mno\n",
  );
  const last = { ...died, lostSessions: 0, isReplaced: false };
  expect(new TextTranscript("tcp").render(last)).toStartWith(
    "[!] Worker 2 died with 3 connections: ",
  );
  expect(JSON.parse(new JsonTranscript("tcp").render(died))).toMatchObject({
    ...{ event: "died", worker: 2, lost: 3, lost_sessions: 4, replaced: true },
  });
});
