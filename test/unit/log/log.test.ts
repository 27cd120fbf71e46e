import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Log, type LogSettings } from "../../../src/log/log.ts";
import type { LogEntry } from "../../../src/log/recent.ts";
import { ended } from "../../../src/workers/end-reason.ts";
import type { ConnectionEvent, WorkerEvent } from "../../../src/workers/protocol.ts";
import { eventually } from "../../helpers/tproxy.ts";

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

function connection(kind: ConnectionEvent["kind"], failed = false): ConnectionEvent {
  const isOver = kind === "forwarded" || kind === "refused";
  return {
    ...{ kind, worker: 1, protocol: "tcp", id: "1.1.1", time: 0, state: "relaying" },
    ...{ client: "192.0.2.1:1", local: "192.0.2.2:80", upstream: undefined, source: "" },
    ...{ clientBytes: 1, upstreamBytes: 2, clientDatagrams: 0, upstreamDatagrams: 0 },
    ...{ ms: 3, idleMs: 0, end: isOver ? ended(failed ? "reset" : "done", "client") : undefined },
  };
}

function logOf(settings: Partial<LogSettings> = {}) {
  let [out, err] = ["", ""];
  const sink = (write: (text: string) => void) => ({
    write: async (text: string) => write(text),
    ...{ isTerminal: false, colors: false, columns: undefined, pending: 0 },
    ...{ room: async () => {}, endWaiting: () => {} },
  });
  const io = {
    stdout: sink((text) => {
      out += text;
    }),
    stderr: sink((text) => {
      err += text;
    }),
    mayLoseOutput: () => {},
  };
  const log = new Log(io, { protocol: "tcp", time: "none", lossless: false, ...settings });
  cleanups.push(() => log.end());
  return { log, out: () => out, err: () => err };
}

function fileAt(): string {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-log-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  return join(folder, "x.log");
}

const all: WorkerEvent[] = [
  connection("accepted"),
  connection("reached"),
  connection("forwarded"),
  connection("forwarded", true),
  connection("refused", true),
  { kind: "warning", text: "careful" },
  { kind: "lost", lines: 3 },
  { kind: "died", worker: 1, error: "x", lost: 0, lostSessions: 0, isReplaced: true },
];

test("each line of JSON has its level, and what has no value is absent", async () => {
  const { log, out } = logOf({ format: "json" });
  await log.print(all);
  log.note("[+] Bound", { event: "bound", address: "[::]:80" });
  const lines = out()
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.map(({ level }) => level)).toEqual([
    ...["debug", "debug", "info", "warning", "warning", "warning", "warning", "error", "info"],
  ]);
  for (const line of lines) {
    expect(Object.keys(line).slice(0, 3)).toEqual(["event", "time", "level"]);
    for (const value of Object.values(line)) expect(value).not.toBe("");
  }
});

test("lines of connections go to the file, and all others stay", async () => {
  for (const format of ["auto", "json"] as const) {
    const file = fileAt();
    const { log, out } = logOf({ file, format });
    await log.print([...all, connection("open")]);
    await eventually("the lines", () => readFileSync(file, "utf8").split("\n").length === 6);
    expect(out().trimEnd().split("\n")).toHaveLength(4);
    expect(out()).toContain("careful");
    expect(out()).toContain("relaying");
    log.reopen();
  }
});

test("a full disk of the file is warned of once, counted, and nothing else is lost", async () => {
  const { log, out } = logOf({ file: "/dev/full" });
  for (let i = 0; i < 5; i++) {
    await log.print([connection("forwarded")]);
    await eventually("the count", () => log.lost.file === i + 1);
  }
  await log.print([{ kind: "warning", text: "careful" }]);
  const lines = out().trimEnd().split("\n");
  const fault = "lines of the log were dropped, and the traffic goes on: /dev/full: ENOSPC";
  expect(lines).toEqual([`[!] ${fault}`, "[!] careful"]);
  log.end();
  expect(out()).toEndWith(`[!] ${fault} (4 more)\n`);
});

test("the last thousand lines are kept, and the next ones can be followed", async () => {
  const { log } = logOf();
  for (let i = 0; i < 700; i++) log.note(`[+] ${i}`, { event: "bound", address: `${i}` });
  await log.print(Array.from({ length: 500 }, () => connection("forwarded")));
  const recent = log.recent();
  expect(recent).toHaveLength(1_000);
  expect(recent[0]).toMatchObject({ level: "info", text: "[+] 200", fields: { address: "200" } });
  expect(recent[500]?.text).toStartWith("[ ] tcp://192.0.2.1:1 to tcp://192.0.2.2:80");
  const followed: LogEntry[] = [];
  const stop = log.follow((entry) => followed.push(entry));
  log.warn("careful");
  stop();
  log.warn("unseen");
  expect(followed.map(({ level, text, fields }) => [level, text, fields.event])).toEqual([
    ["warning", "[!] careful", "warning"],
  ]);
});

test("a level that is set falls back by itself", async () => {
  const { log, out } = logOf({ level: 0 });
  const levels: (string | undefined)[] = [];
  log.onLevel = () => levels.push(log.level);
  log.warn("unheard");
  log.setLevel("debug", 20);
  expect(log.level).toBe("debug");
  log.warn("heard");
  await eventually("its end", () => log.level === undefined);
  log.warn("unheard again");
  expect(levels).toEqual(["debug", undefined]);
  expect(out()).toContain("heard\n");
  expect(out()).not.toContain("unheard");
  log.setLevel("warning");
  log.setLevel(undefined);
  expect(levels).toEqual(["debug", undefined, "warning", undefined]);
});
