import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AF_UNIX, SOCK_DGRAM, SOCK_NONBLOCK } from "../../../ffi/constants.ts";
import { allocate } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import { encodeJournalEntry } from "../../../src/log/journal-entry.ts";
import { JournalSink } from "../../../src/log/journal-sink.ts";

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

/** The fields of an entry, read as the journal reads them. */
function decode(entry: Uint8Array): Record<string, string> {
  const fields: Record<string, string> = {};
  const bytes = Buffer.from(entry);
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf("\n", at);
    const line = bytes.toString("utf8", at, end);
    const sign = line.indexOf("=");
    if (sign >= 0) {
      fields[line.slice(0, sign)] = line.slice(sign + 1);
      at = end + 1;
    } else {
      const length = Number(bytes.readBigUInt64LE(end + 1));
      fields[line] = bytes.toString("utf8", end + 9, end + 9 + length);
      expect(bytes[end + 9 + length]).toBe(0x0a);
      at = end + 10 + length;
    }
  }
  return fields;
}

test("an entry has its message, its priority and the fields of JSON", () => {
  const fields = { event: "forwarded", service: "web", client_bytes: 7, pool: undefined };
  expect(decode(encodeJournalEntry("warning", "it failed", fields))).toEqual({
    ...{ MESSAGE: "it failed", PRIORITY: "4", SYSLOG_IDENTIFIER: "tproxy" },
    ...{ TPROXY_EVENT: "forwarded", TPROXY_SERVICE: "web", TPROXY_CLIENT_BYTES: "7" },
  });
});

test("no value makes a field of its own, and a long one is cut off", () => {
  const text = "first\nMESSAGE=forged\n";
  const entry = encodeJournalEntry("info", text, { detail: text, "a=b\nc": "x" });
  expect(decode(entry)).toEqual({
    ...{ MESSAGE: text, PRIORITY: "6", SYSLOG_IDENTIFIER: "tproxy" },
    ...{ TPROXY_DETAIL: text, TPROXY_A_B_C: "x" },
  });
  expect(encodeJournalEntry("info", "x".repeat(1e6), {}).length).toBeLessThan(10_000);
});

/** A journal of our own at a path. */
function journal() {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-journal-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "socket");
  const open = () => {
    const bytes = new TextEncoder().encode(path);
    const name = allocate(bytes.length + 3);
    name.view.setUint16(0, AF_UNIX, true);
    name.bytes.set(bytes, 2);
    const fd = sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    expect(sys.bind(fd, name.address, name.size)).toBe(0);
    return fd;
  };
  return { path, open, remove: () => rmSync(path, { force: true }) };
}

const buffer = allocate(65_536);

function receive(fd: number): string | undefined {
  const count = sys.recv(fd, buffer.address, buffer.size, 0);
  return count < 0 ? undefined : decode(buffer.bytes.subarray(0, count)).MESSAGE;
}

const entry = (text: string) => encodeJournalEntry("info", text, {});

test("what a full or a dead journal does not take is dropped and counted", () => {
  const { path, open, remove } = journal();
  const faults: string[] = [];
  const sink = new JournalSink((why) => faults.push(why), path);
  cleanups.push(() => sink.close());
  sink.send(entry("nobody"));
  expect([sink.lost, faults]).toEqual([1, [`${path}: No such file or directory (ENOENT)`]]);
  const first = open();
  sink.send(entry("one"));
  expect([receive(first), sink.lost]).toEqual(["one", 1]);
  for (let i = 0; i < 2_000; i++) sink.send(entry(`burst ${i}`));
  expect(sink.lost).toBeGreaterThan(1);
  expect(faults.at(-1)).toBe(`${path}: Resource temporarily unavailable (EAGAIN)`);
  let got = 0;
  while (receive(first) !== undefined) got++;
  expect(got + sink.lost).toBe(2_001);
  // It was started anew: another socket is at the path.
  sys.close(first);
  remove();
  const second = open();
  sink.send(entry("again"));
  expect(receive(second)).toBe("again");
  sys.close(second);
  const { lost } = sink;
  sink.send(entry("late"));
  expect([sink.lost - lost, faults.at(-1)]).toEqual([
    1,
    `${path}: Connection refused (ECONNREFUSED)`,
  ]);
});
