/** `check --live`: the file beside this host and the process that runs; nothing is changed. */

import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanUp, cleanups, eventsOf } from "../helpers/forward.ts";
import { runServer } from "../helpers/run.ts";
import { eventually, run } from "../helpers/tproxy.ts";

afterEach(cleanUp);

async function taken(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => server.close());
  return (server.address() as { port: number }).port;
}

const service = (listen: string, more = "") =>
  `[[service]]\nname = "web"\nlisten = ${listen}\nto = "127.0.0.1:9"\ntransparent = false\n` +
  `source = "self"\n${more}\n`;

/** Checks a text; the lines, without the one about a process that does not run. */
async function checked(text: string, admin: string, ...args: string[]) {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-check-"));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "tproxy.toml");
  await writeFile(file, text);
  return await run(["check", "--live", "-c", file, "--admin", admin, ...args]);
}

test("without a process: what this host has not, status 1", async () => {
  const port = await taken();
  const capture = 'capture = { in = "eth99", dport = [80] }';
  const { status, stdout, stderr } = await checked(
    `user = "nobody-here"
     [admin]
     group = "no-such-group"
     [routes]
     install = "auto"
     ${service(`["127.0.0.1:${port}", "127.0.0.1:0"]`, capture)}`,
    "/nowhere.sock",
  );
  expect(stderr).toContain("nothing runs at /nowhere.sock");
  const lines = stdout.split("\n");
  expect(lines).toContain('problem: user: /etc/passwd has no user "nobody-here"');
  expect(lines).toContain('problem: admin.group: /etc/group has no group "no-such-group"');
  expect(lines).toContain('warning: service "web": capture.in: there is no interface "eth99"');
  expect(stdout).toContain(
    `problem: service "web": listen: Cannot bind tcp://127.0.0.1:${port}: EADDRINUSE`,
  );
  expect(status).toBe(1);
});

test("a name that is not found, and JSON", async () => {
  const text = service('"127.0.0.1:0"').replace("127.0.0.1:9", "nowhere.invalid:9");
  const { status, stdout } = await checked(text, "/nowhere.sock", "--json");
  const [line, more] = stdout.trimEnd().split("\n");
  expect(JSON.parse(String(line))).toMatchObject({ event: "problem" });
  expect(String(line)).toContain('pool \\"web\\": \\"nowhere.invalid\\" is not found');
  expect([status, more]).toEqual([1, undefined]);
});

test("with a process: its sockets are free, and what a reload would change", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-check-"));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));
  const admin = join(folder, "admin.sock");
  const { proxy } = await runServer(service('"127.0.0.1:0"'), 1, { args: ["--admin", admin] });
  await eventually("the socket", () => existsSync(admin));
  const log = '[log]\nformat = "json"\n';
  const same = await checked(log + service('"127.0.0.1:0"'), admin);
  expect([same.status, same.stdout]).toEqual([0, expect.stringContaining(": valid: 1 service")]);
  const other = await checked(log + service('"127.0.0.1:0"', 'idle-timeout = "5m"'), admin);
  expect([other.status, other.stdout]).toEqual([0, "~ service web: idle-timeout 10m -> 5m\n"]);
  const upgrade = await checked(`workers = 2\n${log}${service('"127.0.0.1:0"')}`, admin);
  expect([upgrade.status, upgrade.stdout]).toEqual([4, "upgrade: ~ workers 1 -> 2\n"]);
  // Nothing was changed by that.
  expect(eventsOf(proxy, "reloaded")).toEqual([]);
  const broken = await checked("x = 1", admin);
  expect([broken.status, broken.stdout]).toEqual([2, ""]);
});
