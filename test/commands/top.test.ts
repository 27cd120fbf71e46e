/** `tproxy top` on a terminal, and without one. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, forward } from "../helpers/forward.ts";
import { testWith } from "../helpers/tools.ts";
import { run, tproxy } from "../helpers/tproxy.ts";

const testTerminal = testWith(["python3"]);
const folder = mkdtempSync(join(tmpdir(), "tproxy-top-"));
const admin = join(folder, "admin.sock");
const terminal = join(import.meta.dir, "../helpers/on-terminal.py");
const { SIGHUP, SIGINT, SIGTERM } = constants.signals;

let client: Socket;
let closed: Promise<unknown>;

beforeAll(async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const { port: entry } = await forward(port, "--admin", admin);
  client = connect({ port: entry, host: "127.0.0.1" });
  client.on("error", () => {});
  closed = new Promise((resolve) => client.once("close", resolve));
  client.write("x");
  await once(client, "data");
});
afterAll(async () => {
  client.destroy();
  await cleanUp();
  rmSync(folder, { recursive: true });
});

type Step =
  | readonly ["wait" | "send", string]
  | readonly ["signal", number]
  | readonly ["resize", number, number];

interface Session {
  readonly status: number;
  readonly isRestored: boolean;
  readonly output: string;
  readonly problem: string;
}

/** Runs `top` on a terminal of 100 × 24. */
async function onTerminal(steps: readonly Step[], socket = admin): Promise<Session> {
  const command = [...tproxy, "top", "--admin", socket];
  const child = Bun.spawn(["python3", terminal, JSON.stringify(steps), ...command], {
    env: { ...process.env, TERM: "xterm-256color" },
    stdout: "pipe",
  });
  return JSON.parse(await child.stdout.text()) as Session;
}

describe("however it ends, the terminal is as it was", () => {
  const ends: Record<string, Step> = {
    q: ["send", "q"],
    "Ctrl-C": ["send", "\x03"],
    SIGTERM: ["signal", SIGTERM],
    SIGINT: ["signal", SIGINT],
    SIGHUP: ["signal", SIGHUP],
  };
  testTerminal("q, Ctrl-C, SIGTERM, SIGINT, SIGHUP", async () => {
    const sessions = await Promise.all(
      Object.values(ends).map((end) => onTerminal([["wait", "[1 services"], end])),
    );
    for (const [at, { output, ...session }] of sessions.entries()) {
      expect([Object.keys(ends)[at], session]).toEqual([
        Object.keys(ends)[at],
        { status: 0, isRestored: true, problem: "" },
      ]);
      expect(output).toStartWith("\x1b[?1049h\x1b[?25l");
      expect(output).toEndWith("\x1b[?25h\x1b[?1049l");
    }
  });
});

testTerminal("an error of its own: the terminal is restored before it is shown", async () => {
  const socket = join(folder, "wrong.sock");
  const stream = "event: status\ndata: {}\n\n";
  const server = Bun.serve({
    unix: socket,
    fetch: ({ url }) =>
      url.includes("events")
        ? new Response(stream, { headers: { "content-type": "text/event-stream" } })
        : Response.json({ lines: [] }),
  });
  const { output, isRestored, status } = await onTerminal([], socket);
  await server.stop(true);
  expect(isRestored).toBe(true);
  expect(status).toBeGreaterThan(0);
  const [, shown = ""] = output.split("\x1b[?25h\x1b[?1049l");
  expect(shown).toStartWith("tproxy: internal error: ");
});

testTerminal("keys choose views, the screen is resized, and k ends a connection", async () => {
  const session = await onTerminal([
    ["wait", "[1 services (1)]"],
    ["send", "2"],
    ["wait", "WEIGHT"],
    ["send", "3"],
    ["wait", "relaying"],
    ["resize", 60, 10],
    ["wait", "CLIENT"],
    ["send", "?"],
    ["wait", "sort by the next column"],
    ["send", "?k"],
    ["wait", "? y or n"],
    ["send", "n"],
    ["wait", "not done"],
    ["send", "/client=nonsense\r"],
    ["wait", "is not a network"],
    ["send", "/\x15\r"],
    ["wait", "all is well"],
    ["send", "ky"],
    ["wait", "has been ended"],
    ["send", "q"],
  ]);
  expect(session).toMatchObject({ status: 0, isRestored: true, problem: "" });
  await closed;
});

test("without a terminal it prints the tables once", async () => {
  const { status, stdout } = await run(["top", "--admin", admin]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^tproxy \S+ +pid \d+ /);
  for (const word of ["SERVICE", "UPSTREAM"]) expect(stdout).toContain(word);
  expect(stdout).not.toContain("\x1b");
  const log = await run(["top", "--admin", admin, "--once", "--view", "log"]);
  expect(log.stdout).toContain("Bound to");
});

test("nothing runs: one line, and status 3", async () => {
  const { status, stderr } = await run(["top", "--admin", join(folder, "nothing.sock")]);
  expect(status).toBe(3);
  expect(stderr).toMatch(/^tproxy: nothing runs at .*\n$/);
});
