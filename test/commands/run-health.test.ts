/** Checks of upstreams, against real servers that die, hang, answer with errors and come back. */

import { afterEach, expect } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { nginxConfiguration } from "../helpers/forward-lab.ts";
import { freePorts } from "../helpers/ports.ts";
import { testWith, which } from "../helpers/tools.ts";
import { eventually, type Running, start } from "../helpers/tproxy.ts";
import { udpPeer } from "../helpers/udp.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "tproxy-health-"));
  cleanups.push(() => rmSync(path, { recursive: true }));
  return path;
}

/** A program of the system, until the test ends. */
function run(program: string, args: readonly string[], cwd?: string) {
  const child = Bun.spawn([which(program) as string, ...args], {
    ...{ stdin: "pipe", stdout: "ignore", stderr: "ignore" },
    ...(cwd === undefined ? {} : { cwd }),
  });
  cleanups.push(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });
  return child;
}

/** nginx that answers with its name, and to /health with an error while `bad` is there. */
function nginx(name: string, port: number) {
  const home = folder();
  const configuration = `  access_log off;
  server {
    listen 127.0.0.1:${port};
    location = /health { if (-f ${home}/bad) { return 503; } return 204; }
    location / { return 200 "${name}"; }
  }`;
  writeFileSync(join(home, "nginx.conf"), nginxConfiguration(configuration));
  const args = ["-p", home, "-e", "stderr", "-c", join(home, "nginx.conf")];
  return { home, start: () => run("nginx", args, home) };
}

/** Runs a service over a pool, whose lines these are; the port where it listens. */
async function serve(
  pool: string,
  listen = "127.0.0.1:0",
): Promise<{ proxy: Running; port: number }> {
  const file = join(folder(), "tproxy.toml");
  const service = `[[service]]\nname = "s"\nlisten = "${listen}"\npool = "web"`;
  writeFileSync(
    file,
    `[[pool]]\nname = "web"\n${pool}\n${service}\nsource = "self"\ntransparent = false\n`,
  );
  const proxy = start(["run", "-c", file]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const [, port] = await proxy.until(/Bound to \w+:\/\/127\.0\.0\.1:(\d+)\D/);
  return { proxy, port: Number(port) };
}

/** How often a change of an upstream is in the log. */
const changes = (proxy: Running, what: string) => proxy.stdout().split(what).length - 1;

async function ask(port: number): Promise<string> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/`, { keepalive: false });
    return `${answer.status} ${await answer.text()}`;
  } catch (error) {
    return `${error}`;
  }
}

testWith(["nginx"])(
  "http: under load no connection fails once a check has found an upstream down",
  async () => {
    const [a = 0, b = 0] = freePorts(2);
    const [first, second] = [nginx("a", a), nginx("b", b)];
    const server = first.start();
    second.start();
    const check = `check = { type = "http", path = "/health", interval = "200ms", timeout = "2s" }`;
    const { proxy, port } = await serve(`${check}
      [[pool.upstream]]\nname = "a"\nto = "127.0.0.1:${a}"
      [[pool.upstream]]\nname = "b"\nto = "127.0.0.1:${b}"`);
    const answers = async (count: number) => {
      const got: string[] = [];
      const ask8 = async () => {
        while (got.length < count) got.push(await ask(port));
      };
      await Promise.all(Array.from({ length: 8 }, ask8));
      return new Set(got);
    };
    await eventually("both serve", () => changes(proxy, "is down") === changes(proxy, "is up;"));
    expect(await answers(40)).toEqual(new Set(["200 a", "200 b"]));
    // It answers its check with an error, and serves on.
    writeFileSync(join(first.home, "bad"), "");
    await proxy.until(/upstream web\/a \(\S+\) is down: status 503; .*; 1 of 2 upstreams takes/);
    expect(await answers(200)).toEqual(new Set(["200 b"]));
    rmSync(join(first.home, "bad"));
    const ups = () => changes(proxy, "upstream web/a (127.0.0.1:");
    const before = ups();
    await eventually("it is up", () => ups() > before);
    expect(await answers(40)).toEqual(new Set(["200 a", "200 b"]));
    // It hangs: the kernel still accepts its connections.
    server.kill("SIGSTOP");
    await proxy.until(/web\/a \(\S+\) is down: no answer within 2s/);
    expect(await answers(200)).toEqual(new Set(["200 b"]));
    server.kill("SIGKILL");
    await server.exited;
    const again = ups();
    first.start();
    await eventually("it is up again", () => ups() > again);
    expect(await answers(40)).toEqual(new Set(["200 a", "200 b"]));
    proxy.kill("SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
  },
);

testWith(["socat"])("on-down = close ends what is open, keep does not", async () => {
  for (const rule of ["close", "keep"]) {
    const [a = 0] = freePorts(1);
    const echo = run("socat", [`TCP-LISTEN:${a},bind=127.0.0.1,fork,reuseaddr`, "EXEC:cat"]);
    const { proxy, port } = await serve(`on-down = "${rule}"
      check = { type = "tcp", interval = "100ms", fall = 2, rise = 1 }\nto = "127.0.0.1:${a}"`);
    let isOpen = false;
    let end = "";
    const open = () => {
      const socket = connect(port, "127.0.0.1", () => socket.write("hello"));
      socket.on("data", () => {
        isOpen = true;
      });
      socket.on("error", () => {});
      socket.on("close", () => {
        end = isOpen ? "closed" : "";
        if (!isOpen) open();
      });
      cleanups.push(() => socket.destroy());
    };
    open();
    await eventually("the connection carries", () => isOpen);
    // The listener goes; what is open stays with a child.
    echo.kill("SIGKILL");
    await proxy.until(/web\/127\.0\.0\.1:\d+ is down: connection refused; .*; 0 of 1 upstreams/);
    if (rule === "close") {
      await eventually("it is closed", () => end === "closed");
      await proxy.until(/its upstream is down/);
    } else {
      run("socat", [`TCP-LISTEN:${a},bind=127.0.0.1,fork,reuseaddr`, "EXEC:cat"]);
      const ups = changes(proxy, "is up;");
      await eventually("it is up", () => changes(proxy, "is up;") > ups);
      expect(end).toBe("");
    }
  }
});

testWith(["openssl"])("tls: a ServerHello is an answer, other bytes are none", async () => {
  const home = folder();
  const [plain = 0, secret = 0] = freePorts(2);
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.end("220 no TLS here\r\n");
  }).listen(plain, "127.0.0.1");
  cleanups.push(() => server.close());
  const subject = ["-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"];
  const made = run("openssl", ["req", "-x509", "-newkey", "rsa:2048", ...subject], home);
  expect(await made.exited).toBe(0);
  const { proxy } = await serve(`check = { type = "tls", interval = "200ms", host = "localhost" }
      [[pool.upstream]]\nname = "plain"\nto = "127.0.0.1:${plain}"
      [[pool.upstream]]\nname = "secret"\nto = "127.0.0.1:${secret}"`);
  await proxy.until(/web\/plain \(\S+\) is down: no TLS/);
  await proxy.until(/web\/secret \(\S+\) is down: connection refused/);
  for (const versions of [["-tls1_2"], ["-tls1_3"]]) {
    const ups = changes(proxy, "is up;");
    const args = ["-accept", `127.0.0.1:${secret}`, "-cert", "cert.pem", "-key", "key.pem"];
    const tls = run("openssl", ["s_server", ...args, "-quiet", ...versions], home);
    await eventually("it is up", () => changes(proxy, "is up;") > ups);
    const downs = changes(proxy, "is down");
    tls.kill("SIGKILL");
    await eventually("it is down", () => changes(proxy, "is down") > downs);
  }
});

testWith([])(
  "udp: a session of an upstream that went down ends, and the next one serves",
  async () => {
    const [a, b] = await Promise.all(
      ["a", "b"].map((name) =>
        udpPeer((data) => Buffer.from(data.toString() === "ping" ? "\x00pong" : name)),
      ),
    );
    const client = await udpPeer();
    cleanups.push(
      () => client.close(),
      () => b?.close(),
    );
    const { proxy, port } = await serve(
      `check = { type = "udp", send = "ping", expect = "hex:706f6e67", interval = "100ms" }
      [[pool.upstream]]\nname = "a"\nto = "127.0.0.1:${a?.port}"
      [[pool.upstream]]\nname = "b"\nto = "127.0.0.1:${b?.port}"\nbackup = true`,
      "udp://127.0.0.1:0",
    );
    client.send(port, "x");
    expect((await client.next()).text).toBe("a");
    a?.close();
    await proxy.until(/web\/a \(\S+\) is down: connection refused; .*; 1 of 2 upstreams takes/);
    // What arrives while the session ends is lost, as a client of UDP has to expect.
    const asking = setInterval(() => client.send(port, "x"), 100);
    cleanups.push(() => clearInterval(asking));
    expect((await client.next()).text).toBe("b");
  },
);

testWith([])("without a check no thread is started", async () => {
  const threads = async (check: string) => {
    const { proxy } = await serve(`${check}\nto = "127.0.0.1:9"`);
    await proxy.until(/Bound/);
    return proxy;
  };
  const [without, checked] = [await threads(""), await threads('check = { type = "tcp" }')];
  const count = ({ pid }: Running) =>
    [...new Bun.Glob("*/comm").scanSync({ cwd: `/proc/${pid}/task`, followSymlinks: true })].length;
  await eventually("it checks", () => /is down/.test(checked.stdout()));
  expect(count(checked)).toBeGreaterThan(count(without));
});
