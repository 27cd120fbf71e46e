/** The unit of the packages under a real systemd, as process 1 of namespaces of its own. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileText } from "../../build/package/contents.ts";
import { executable, isStatic } from "../helpers/static-file.ts";
import { canBoot, Systemd } from "../helpers/systemd.ts";
import { eventually } from "../helpers/tproxy.ts";

const backend = `
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 1024
    daemon_threads = True
Server(("127.0.0.1", 9000), Handler).serve_forever()
`;

/** Connects again and again, 4 at once, until a file `stop` is there; prints what went wrong. */
const load = `
import os, socket, threading, time
stop = threading.Event()
done, failed = [0], []
def work():
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", 8000), 20) as s:
                s.settimeout(20)
                data = b""
                while chunk := s.recv(100): data += chunk
            if data != b"hello": failed.append(repr(data))
            done[0] += 1
        except OSError as error:
            failed.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
open("/run/tproxy-test/started", "w")
while not os.path.exists("/run/tproxy-test/stop"): time.sleep(0.02)
stop.set()
for t in threads: t.join()
print(done[0], len(failed), failed[:3], flush=True)
`;

const configuration = `
[[service]]
name = "web"
listen = "127.0.0.1:8000"
to = "127.0.0.1:9000"

[routes]
install = "auto"

[service.capture]
dst = "192.0.2.0/24"
dport = 80
`;

describe.skipIf(!canBoot || !isStatic)("tproxy.service", () => {
  let systemd: Systemd;
  let program = "";
  let restarts = "";

  beforeAll(async () => {
    const unit = fileText("tproxy.service")
      .replaceAll("/usr/bin/tproxy", "/run/tproxy-test/tproxy")
      .replaceAll("/etc/tproxy/", "/run/tproxy-test/")
      .replace("WatchdogSec=20s", "WatchdogSec=2s\nStandardOutput=append:/run/tproxy-test/log");
    systemd = await Systemd.boot({
      "tproxy.service": unit,
      "backend.service": "[Service]\nExecStart=/usr/bin/python3 /run/tproxy-test/backend.py\n",
    });
    program = join(systemd.folder, "tproxy");
    copyFileSync(executable, program);
    writeFileSync(join(systemd.folder, "tproxy.toml"), configuration);
    writeFileSync(join(systemd.folder, "backend.py"), backend);
    writeFileSync(join(systemd.folder, "load.py"), load);
    systemd.run("mkdir", "/run/tproxy-test");
    systemd.run("mount", "--bind", systemd.folder, "/run/tproxy-test");
    systemd.run("systemctl", "start", "backend.service");
  }, 240_000);
  afterAll(() => systemd?.close());

  /** Does something while connections are made, and returns how many failed. */
  async function underLoad(work: () => Promise<void>): Promise<{ done: number; failed: string }> {
    const load = systemd.spawn("python3", "/run/tproxy-test/load.py");
    const output = Promise.all([load.stdout.text(), load.stderr.text()]);
    await eventually("the load", () => existsSync(join(systemd.folder, "started")));
    await work();
    writeFileSync(join(systemd.folder, "stop"), "");
    const [printed, problems] = await output;
    for (const name of ["started", "stop"]) rmSync(join(systemd.folder, name));
    const [, done = "", failed = ""] = /^([0-9]+) (.*)\n$/.exec(printed) ?? [];
    return { done: Number(done), failed: failed + problems };
  }

  const log = () => readFileSync(join(systemd.folder, "log"), "utf8");
  const main = () => Number(systemd.property("tproxy.service", "MainPID"));

  test("starts in its sandbox, says so, and is watched", async () => {
    const started = systemd.run("systemctl", "start", "tproxy.service");
    expect([started, log()]).toEqual([{ status: 0, output: "" }, expect.any(String)]);
    expect(systemd.property("tproxy.service", "StatusText")).toContain("1 service");
    expect(systemd.run("nft", "list", "tables").output).toContain("table inet tproxyd");
    expect(systemd.property("tproxy.service", "NFileDescriptorStore")).not.toBe("0");
    const pid = main();
    // Longer than the watchdog's period.
    await Bun.sleep(3_000);
    expect([main(), systemd.property("tproxy.service", "ActiveState")]).toEqual([pid, "active"]);
  }, 240_000);

  test("three kills lose no connection that is made meanwhile", async () => {
    const { done, failed } = await underLoad(async () => {
      for (let kill = 0; kill < 3; kill++) {
        const pid = main();
        systemd.run("kill", "-9", String(pid));
        const isBack = () =>
          main() !== pid && systemd.property("tproxy.service", "ActiveState") === "active";
        await eventually("the next process", isBack);
        await Bun.sleep(200);
      }
    });
    restarts = systemd.property("tproxy.service", "NRestarts");
    // What is open at the moment of a kill is lost; what waits is not refused.
    expect(failed).not.toContain("ConnectionRefused");
    expect([done, failed]).toEqual([expect.any(Number), failed]);
    expect(`${done} ${failed}`).not.toStartWith("0");
  }, 240_000);

  test("three upgrades lose nothing: no connection, no rule, no watchdog", async () => {
    const { done, failed } = await underLoad(async () => {
      for (let upgrade = 0; upgrade < 3; upgrade++) {
        const pid = main();
        const next = join(systemd.folder, "next");
        copyFileSync(executable, next);
        renameSync(next, program);
        systemd.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGUSR2", "tproxy.service");
        await eventually("the next process", () => ![0, pid].includes(main()));
        expect(systemd.run("nft", "list", "tables").output).toContain("table inet tproxyd");
        const isGone = () => systemd.run("kill", "-0", String(pid)).status !== 0;
        await eventually("the end of the old one", isGone);
        expect(systemd.run("nft", "list", "tables").output).toContain("table inet tproxyd");
      }
      // Longer than the watchdog's period.
      const pid = main();
      await Bun.sleep(2_500);
      expect([main(), systemd.property("tproxy.service", "NRestarts")]).toEqual([pid, restarts]);
    });
    expect(failed).toBe("0 []");
    expect(done).toBeGreaterThan(0);
  }, 240_000);

  test("an upgraded process that is killed at once: the old one is main again", async () => {
    const pid = main();
    const known = log().length;
    const { failed } = await underLoad(async () => {
      systemd.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGUSR2", "tproxy.service");
      await eventually("the next process", () => ![0, pid].includes(main()));
      systemd.run("kill", "-9", String(main()));
      await eventually("the old one", () => main() === pid);
      await eventually("its line", () => log().slice(known).includes("serves again"));
      expect(systemd.run("nft", "list", "tables").output).toContain("table inet tproxyd");
      await Bun.sleep(2_500);
    });
    expect([main(), systemd.property("tproxy.service", "ActiveState")]).toEqual([pid, "active"]);
    // What the new one had open was lost with it.
    expect(failed).not.toContain("ConnectionRefused");
  }, 240_000);

  test("a process that hangs is ended by the watchdog", async () => {
    const pid = main();
    systemd.run("kill", "-STOP", String(pid));
    await eventually("the next process", () => ![0, pid].includes(main()));
    await eventually(
      "it serves",
      () => systemd.property("tproxy.service", "ActiveState") === "active",
    );
  }, 240_000);

  test("stops cleanly, with its rules", async () => {
    expect(systemd.run("systemctl", "stop", "tproxy.service")).toEqual({ status: 0, output: "" });
    expect(systemd.property("tproxy.service", "Result")).toBe("success");
    expect(systemd.run("nft", "list", "tables").output).not.toContain("tproxyd");
    writeFileSync(join(systemd.folder, "tproxy.toml"), fileText("tproxy.toml"));
    systemd.run("systemctl", "start", "tproxy.service");
    expect(systemd.property("tproxy.service", "Result")).toBe("success");
    expect(systemd.property("tproxy.service", "NRestarts")).toBe("0");
  }, 240_000);
});
