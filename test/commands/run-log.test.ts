/** The log of `tproxy run`: whose line it is, and a reload that opens the file again. */

import { afterEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf, exchange } from "../helpers/forward.ts";
import { eventually, start } from "../helpers/tproxy.ts";

afterEach(cleanUp);

test("lines have their service, its pool and the generation; a reload opens the file", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-run-log-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  // Of root the process goes on without its power over files.
  chmodSync(folder, 0o777);
  const [path, file] = [join(folder, "tproxy.toml"), join(folder, "connections.log")];
  const echo = await backend((socket) => socket.pipe(socket));
  const configure = (sample: number) =>
    writeFileSync(
      path,
      `[log]
       format = "json"
       file = "${file}"
       sample = ${sample}
       [[pool]]
       name = "echoes"
       to = ["127.0.0.1:1", "127.0.0.1:${echo}"]
       [[service]]
       name = "web"
       listen = "127.0.0.1:0"
       pool = "echoes"
       transparent = false
       source = "self"`,
    );
  const linesIn = (name: string): Record<string, unknown>[] =>
    existsSync(name)
      ? readFileSync(name, "utf8")
          .split("\n")
          .slice(0, -1)
          .map((line) => JSON.parse(line))
      : [];
  configure(1);
  const proxy = start(["run", "-c", path]);
  cleanups.push(() => proxy.kill("SIGKILL"));
  const [, port] = await proxy.until(/"bound".*"address":"127\.0\.0\.1:(\d+)"/);
  for (let i = 0; i < 2; i++) await exchange(Number(port), [new Uint8Array(3)]);
  await eventually("its lines", () => linesIn(file).length === 2);
  const [first] = linesIn(file);
  expect(first).toMatchObject({
    ...{ event: "forwarded", level: "info", service: "web", pool: "echoes", generation: 1 },
    ...{ reason: "done", client_bytes: 3, connect_ms: expect.any(Number) },
  });
  // One of the two at least has tried the other upstream first.
  const retries = linesIn(file).flatMap((line) => line.retries ?? []);
  expect(new Set(retries)).toEqual(new Set([1]));
  configure(2);
  renameSync(file, `${file}.1`);
  proxy.kill("SIGHUP");
  await proxy.until(/"event":"reloaded"/);
  expect(eventsOf(proxy, "reloaded")).toMatchObject([{ level: "info", generation: 2 }]);
  await exchange(Number(port), []);
  await eventually("its line", () => linesIn(file).length === 1);
  expect(linesIn(file)[0]).toMatchObject({ generation: 2 });
  // A reload that changes nothing opens it as well.
  renameSync(file, `${file}.2`);
  proxy.kill("SIGHUP");
  await eventually("the second one", () => eventsOf(proxy, "reloaded").length === 2);
  expect(linesIn(file)).toEqual([]);
  expect(existsSync(file)).toBe(true);
}, 240_000);
