import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { logBytesMax } from "../../../src/engine/limits.ts";
import { FileSink } from "../../../src/log/file-sink.ts";

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

function place(): string {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-log-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  return join(folder, "connections.log");
}

test("lines are appended in order, and nothing in them drives a terminal", async () => {
  const path = place();
  for (const part of ["first", "second"]) {
    const sink = new FileSink(path, () => {});
    for (let i = 0; i < 500; i++) sink.write(`${part} ${i}\n`);
    sink.write("\x1b[31mred\n");
    await sink.flush();
  }
  const lines = readFileSync(path, "utf8").split("\n");
  expect(lines.length).toBe(1_003);
  expect(lines.slice(499, 502)).toEqual(["first 499", "\\x1b[31mred", "second 0"]);
  expect(statSync(path).mode & 0o777 & ~0o640).toBe(0);
});

test("a file that was renamed is left after a reopening, with no line lost", async () => {
  const path = place();
  const sink = new FileSink(path, () => {});
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 50; i++) sink.write(`${round}.${i} ${"x".repeat(100)}\n`);
    renameSync(path, `${path}.${round}`);
    sink.reopen();
    // Twice, as when two programs ask for it.
    if (round % 2 === 0) sink.reopen();
  }
  sink.write("last\n");
  await sink.flush();
  expect(readFileSync(path, "utf8")).toEndWith("last\n");
  const all = Array.from({ length: 20 }, (_, round) => readFileSync(`${path}.${round}`, "utf8"));
  const lines = `${all.join("")}${readFileSync(path, "utf8")}`.trimEnd().split("\n");
  expect(lines.length).toBe(1_001);
  expect(new Set(lines.map((line) => line.split(" ")[0])).size).toBe(1_001);
});

test("where it cannot be opened again, the file that was open is written on", async () => {
  const path = place();
  const faults: string[] = [];
  const sink = new FileSink(path, (why) => faults.push(why));
  renameSync(path, `${path}.1`);
  const folder = join(path, "..");
  renameSync(folder, `${folder}-away`);
  sink.reopen();
  expect(faults).toHaveLength(1);
  expect(faults[0]).toContain("ENOENT");
  renameSync(`${folder}-away`, folder);
  sink.write("still\n");
  await sink.flush();
  expect(readFileSync(`${path}.1`, "utf8")).toBe("still\n");
});

test("a full disk, and a file that takes nothing, cost lines and are counted", async () => {
  const faults: string[] = [];
  const sink = new FileSink("/dev/full", (why) => faults.push(why));
  sink.write("one\ntwo\n");
  await sink.flush();
  expect([sink.lost, faults]).toEqual([2, ["/dev/full: ENOSPC"]]);
  const slow = new FileSink(place(), (why) => faults.push(why));
  const half = `${"x".repeat(logBytesMax / 2 - 1)}\n`;
  // The first is being written; two wait; the others find no room.
  for (let i = 0; i < 5; i++) slow.write(half);
  expect([slow.lost, faults.at(-1)]).toEqual([2, `${slow.path}: it takes lines too slowly`]);
  await slow.flush();
});

test("a file that cannot be opened is named at once", () => {
  expect(() => new FileSink("/nonexistent/x.log", () => {})).toThrow(
    "Cannot open the log file: ENOENT: no such file or directory, open '/nonexistent/x.log'",
  );
});
