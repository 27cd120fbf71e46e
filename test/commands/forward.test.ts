import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import * as sys from "../../ffi/sys.ts";
import { bindSocket, localName } from "../../src/engine/sockets.ts";
import { backend, cleanUp, cleanups, exchange, forward, forwardBy } from "../helpers/forward.ts";
import { testWith } from "../helpers/tools.ts";
import { descriptors, eventually, run, start } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const testPython = testWith(["python3"]);

describe("forward on loopback", () => {
  test("hundreds of connections, random chunks both ways, every byte as sent", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { proxy, port: entry } = await forward(port, "--quiet");
    const pool = crypto.getRandomValues(new Uint8Array(65_536));
    const chunk = () => pool.subarray(0, 1 + Math.floor(Math.random() * pool.length));
    await Promise.all(
      Array.from({ length: 300 }, async () => {
        const parts = Array.from({ length: 1 + Math.floor(Math.random() * 12) }, chunk);
        const sent = Buffer.concat(parts);
        expect(Bun.hash(await exchange(entry, parts))).toBe(Bun.hash(sent));
      }),
    );
    // The standard streams are five, the listener and the monitor of own addresses two.
    await eventually("all sockets and no more pipes than the pool are left", () => {
      return descriptors(proxy.pid).filter((name) => name.startsWith("socket:")).length <= 7;
    });
  }, 240_000);

  test("a reset of the backend reaches the client as a reset, and the log says whose", async () => {
    const port = await backend((socket) => socket.once("data", () => socket.resetAndDestroy()));
    const { proxy, port: entry } = await forward(port);
    const socket = connect({ port: entry, host: "127.0.0.1" });
    socket.write("x");
    const [error] = await once(socket, "error");
    expect(error.code).toBe("ECONNRESET");
    await proxy.until(/\[-\] .* 1 bytes out, 0 in, \d+ ms: reset by upstream\n/);
  });

  test("a slow reader slows its own sender, and nobody else", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { port: entry } = await forward(port, "--quiet");
    const slow = connect({ port: entry, host: "127.0.0.1" });
    slow.pause();
    slow.write(Buffer.alloc(32 * 1024 * 1024, "x"));
    cleanups.push(() => slow.destroy());
    for (let i = 0; i < 20; i++) {
      const answer = await exchange(entry, [new TextEncoder().encode(`${i}`)]);
      expect(answer.toString()).toBe(`${i}`);
    }
  });

  test("at --max-connections the next one waits for its turn", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { port: entry } = await forward(port, "--quiet", "--max-connections", "2");
    const held = [0, 1].map(() => connect({ port: entry, host: "127.0.0.1" }));
    for (const socket of held) {
      socket.write("a");
      await once(socket, "data");
    }
    const waiting = connect({ port: entry, host: "127.0.0.1" });
    let answered = false;
    waiting.on("data", () => {
      answered = true;
    });
    waiting.write("b");
    await once(waiting, "connect");
    held[0]?.write("c");
    await once(held[0] as Socket, "data");
    expect(answered).toBe(false);
    held[0]?.destroy();
    await eventually("it gets its turn", () => answered);
    for (const socket of [...held, waiting]) socket.destroy();
  });

  test("--max-connections is for all listeners and all workers together", async () => {
    const open = new Set<Socket>();
    const port = await backend((socket) => {
      socket.resume();
      open.add(socket);
      socket.on("close", () => open.delete(socket));
    });
    const { proxy, port: entry } = await forward(port, "--max-connections", "3", "127.0.0.1:0");
    const [, second] = await proxy.until(/Bound.*\n.*Bound to tcp:\/\/127\.0\.0\.1:(\d+)\D/);
    const clients = [entry, Number(second)].flatMap((to) =>
      Array.from({ length: 12 }, () => connect({ port: to, host: "127.0.0.1" })),
    );
    for (const client of clients) client.on("error", () => {});
    cleanups.push(() => clients.forEach((client) => void client.destroy()));
    let most = 0;
    for (let ended = 0; ended < 12; ended++) {
      await eventually("as many as may be are open", () => open.size >= 3);
      most = Math.max(most, open.size);
      for (const socket of [...open].slice(0, 1)) {
        socket.resetAndDestroy();
        open.delete(socket);
      }
    }
    expect(most).toBe(3);
  });

  test("an IPv4-mapped upstream is the IPv4 one", async () => {
    const port = await backend((socket) => socket.end("here"));
    const to = `[::ffff:127.0.0.1]:${port}`;
    const proxy = start(["forward", "--no-transparent", "127.0.0.1:0", "--to", to]);
    cleanups.push(() => proxy.kill("SIGKILL"));
    const [, entry] = await proxy.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\D/);
    expect((await exchange(Number(entry), [])).toString()).toBe("here");
  });

  test("where connecting takes too long, the next upstream stands in", async () => {
    const loopback = { address: Uint8Array.of(127, 0, 0, 1), port: 0, scopeId: 0 };
    const full = bindSocket({ protocol: "tcp", transparent: false }, loopback);
    cleanups.push(() => sys.close(full));
    sys.listen(full, 0);
    const { port: taken } = localName(full);
    // Nothing accepts there, and once its queue is full a SYN is not answered.
    const waiting = [0, 1, 2].map(() => connect({ port: taken, host: "127.0.0.1" }));
    for (const socket of waiting) socket.on("error", () => {});
    cleanups.push(() => waiting.forEach((socket) => void socket.destroy()));
    await once(waiting[0] as Socket, "connect");
    const port = await backend((socket) => socket.end("here"));
    const other = ["--to", `127.0.0.1:${port}`, "--connect-timeout", "200ms"];
    const { port: entry } = await forward(taken, "--quiet", ...other);
    expect((await exchange(entry, [])).toString()).toBe("here");
    // Nobody but the upstream can have kept it from being connected.
    const alone = await forward(taken, "--json", "--connect-timeout", "100ms");
    await exchange(alone.port, []);
    await alone.proxy.until(/"ended_by":"upstream","reason":"connect-timeout"/);
  });

  for (const then of ["sys.stdin.read()", "s.close()"]) {
    testPython(
      `urgent data in a stream that is spliced, then ${then}: all arrives`,
      async () => {
        const total = 4_000_000 + 1000;
        const seen = Promise.withResolvers<void>();
        const port = await backend((socket) => {
          let received = 0;
          // Not read at first, so that the proxy has to splice.
          setTimeout(() => {
            socket.on("data", ({ length }) => {
              received += length;
              if (received >= total) seen.resolve();
            });
          }, 100);
        });
        const { port: entry } = await forward(port, "--quiet");
        const script = `
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"x" * 4000000)
s.send(b"!", socket.MSG_OOB)
s.sendall(b"y" * 1000)
${then}`;
        const client = Bun.spawn(["python3", "-c", script, `${entry}`], { stdin: "pipe" });
        cleanups.push(() => client.kill());
        await seen.promise;
      },
      240_000,
    );
  }

  test("small messages do not wait for acknowledgements", async () => {
    const port = await backend((socket) => {
      let received = 0;
      socket.setNoDelay(true);
      socket.on("data", ({ length }) => {
        received += length;
        if (received % 2 === 0) socket.write("k");
      });
    });
    const { port: entry } = await forward(port, "--quiet");
    const socket = connect({ port: entry, host: "127.0.0.1", noDelay: true });
    await once(socket, "connect");
    const times: number[] = [];
    for (let turn = 0; turn < 60; turn++) {
      const begun = performance.now();
      socket.write("a");
      await Bun.sleep(2);
      socket.write("b");
      await once(socket, "data");
      times.push(performance.now() - begun);
    }
    socket.destroy();
    // A delayed acknowledgement takes 40 ms at the least.
    expect(times.sort((a, b) => a - b)[20]).toBeLessThan(35);
  });

  test("silent connections are closed: idle, half-closed, and without a whole header", async () => {
    const port = await backend((socket) => socket.resume());
    const { proxy, port: entry } = await forward(port, "--idle-timeout", "100ms");
    const idle = connect({ port: entry, host: "127.0.0.1" });
    await once(idle, "close");
    await proxy.until(/: idle timeout\n/);
    const half = await forward(port, "--half-closed-timeout", "100ms");
    void exchange(half.port, [new Uint8Array(1)]);
    await half.proxy.until(/: idle timeout\n/);
    const bare = await forward(port, "--accept-proxy", "--header-timeout", "100ms");
    const slow = connect({ port: bare.port, host: "127.0.0.1" });
    slow.on("error", () => {});
    slow.write("PROXY TCP4 192.0.2.1 192.0.2");
    await new Promise((done) => slow.on("close", done));
    await bare.proxy.until(/PROXY protocol: header timeout\n/);
  });

  test("a second SIGTERM ends at once what the first one let go on", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { proxy, port: entry } = await forward(port);
    const open = connect({ port: entry, host: "127.0.0.1" });
    open.write("x");
    await once(open, "data");
    proxy.kill("SIGTERM");
    await proxy.until(/stopping: 1 connection may go on for 30s, and a second signal ends them/);
    let refused = false;
    await eventually("no more are accepted", () => {
      const probe = connect({ port: entry, host: "127.0.0.1" });
      probe.on("error", () => {
        refused = true;
      });
      probe.on("connect", () => probe.destroy());
      return refused;
    });
    open.write("y");
    await once(open, "data");
    const [[error]] = await Promise.all([once(open, "error"), proxy.kill("SIGTERM")]);
    // No end, which the client could take for that of what it asked for.
    expect(error.code).toBe("ECONNRESET");
    expect((await proxy.finished()).status).toBe(143);
  });

  test("signals and commands while it drains do not put off its end", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { proxy, port: entry } = await forward(port, "--drain-timeout", "500ms");
    const open = connect({ port: entry, host: "127.0.0.1" });
    open.on("error", () => {});
    open.write("x");
    await once(open, "data");
    proxy.kill("SIGTERM");
    await proxy.until(/stopping: /);
    let ended = false;
    const finished = proxy.finished().finally(() => {
      ended = true;
    });
    while (!ended) {
      proxy.kill("SIGUSR1");
      await Bun.sleep(100);
    }
    const { status, stdout } = await finished;
    expect(stdout).toMatch(/: stopped\n/);
    expect(status).toBe(0);
  });

  test("with nothing open SIGTERM is the end; --drain-timeout bounds the rest", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const first = await forward(port);
    first.proxy.kill("SIGTERM");
    expect((await first.proxy.finished()).status).toBe(0);
    const second = await forward(port, "--drain-timeout", "50ms");
    const open = connect({ port: second.port, host: "127.0.0.1" });
    open.on("error", () => {});
    open.write("x");
    await once(open, "data");
    second.proxy.kill("SIGTERM");
    expect((await second.proxy.finished()).status).toBe(0);
    expect(second.proxy.stdout()).toMatch(/: stopped\n/);
    expect(first.proxy.stdout()).not.toContain("stopping");
  });
});

test("a port is another program's where the listener has one address", async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const proxy = start(
    `forward --no-transparent --source self 127.0.0.2:${port} --to 127.0.0.1:${port}`.split(" "),
  );
  cleanups.push(() => proxy.kill("SIGKILL"));
  await proxy.until(/Bound to tcp:\/\/127\.0\.0\.2:/);
  const socket = connect({ port, host: "127.0.0.2" });
  socket.write("x");
  expect(String((await once(socket, "data"))[0])).toBe("x");
  socket.destroy();
});

testWith(["strace"])("without netlink it says what is missing, in one line", async () => {
  const inject = "inject=socket:error=EAFNOSUPPORT:when=1+";
  const prefix = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=socket", "-e", inject];
  const args = "forward --no-transparent --source self 127.0.0.1:0 --to 127.0.0.1:9".split(" ");
  const { status, stdout, stderr } = await run(args, { prefix });
  expect(stderr).toMatch(/^tproxy: Cannot read the addresses of this host: .*AF_NETLINK\n$/);
  expect(stdout).toBe("");
  expect(status).toBe(1);
});

testWith(["prlimit"])("the limit on descriptors is raised as far as it may be", async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const { proxy } = await forwardBy({ prefix: ["prlimit", "--nofile=100:300"] }, port);
  const limits = readFileSync(`/proc/${proxy.pid}/limits`, "utf8");
  expect(limits).toMatch(/^Max open files +300 +300 /m);
});

test("--routes print --local: with which mark the rules are to be used", async () => {
  const args = "forward :50080 --to original --routes print --dport 80 --local".split(" ");
  const { status, stdout, stderr } = await run(args);
  expect(stdout).toContain("meta mark & 0x2 == 0x2 return");
  expect(stderr).toBe(
    "tproxy: with these rules and --routes none, give --socket-mark 0x2 as well\n",
  );
  expect(status).toBe(0);
});

describe("forward, nonsense", () => {
  test.each([
    ["forward :80", /--to is missing: give HOST:PORT or "original"/],
    ["forward :80 --to [fe80::1]:80", /needs its interface: give "\[fe80::1%eth0\]:80"/],
    ["forward :80 --to nowhere", /"nowhere" is not HOST:PORT/],
    ["forward :80 --to original --to 192.0.2.1:80", /--to original excludes other upstreams/],
    ["forward :80 --to 192.0.2.1:80 --source me", /"me" is no source: give client, client:port/],
    ["forward :80 --to 192.0.2.1:80 --accept-proxy=10.0.0.0/33", /"10.0.0.0\/33"/],
    [
      "forward :80 --to 192.0.2.1:80 --accept-proxy --accept-proxy=10.0.0.0/8",
      /with networks and without/,
    ],
    ["forward :80 --to 192.0.2.1:80 --accept-proxy=@/nowhere", /Cannot read "@\/nowhere": ENOENT/],
    [
      "forward :80 --to 192.0.2.1:80 --header-timeout 1s",
      /--header-timeout needs --accept-proxy\n$/,
    ],
    ["forward :80 --to 192.0.2.1:80 --accept-proxy --header-timeout x", /"x" is not a duration/],
    ["forward :80 --to 192.0.2.1:80 --keepalive 500ms", /--keepalive "500ms" .* give "1s"/],
    ["forward :80 --to 192.0.2.1:80 --routes print --dport 80 --mark 0", /"0x0" marks nothing/],
    ["forward :0 --to 192.0.2.1:80 --routes print", /print excludes port "0"/],
    ["forward :80 --to 192.0.2.1:80 --balance fair", /give "round-robin", "least-conn/],
    [
      "forward :80 --to 192.0.2.1:80 --workers 4 --max-connections 3",
      /--max-connections 3 is less than one for each of the 4 workers/,
    ],
    ["forward :80 --to udp://192.0.2.1:80", /--to udp:.* carries udp only, and tcp is wanted too/],
    ["forward :80 --udp --to tcp://192.0.2.1:80", /--to tcp:.* carries tcp only, and udp/],
    ["forward :80 --to 192.0.2.1:80 --max-sessions 5", /--max-sessions needs --udp/],
    ["forward :80 --to 192.0.2.1:80 --udp-timeout 5s", /--udp-timeout needs --udp/],
    ["forward :80 --udp --to 192.0.2.1:80 --max-connections 5", /-connections needs --tcp/],
    ["forward :80 --udp --to 192.0.2.1:80 --idle-timeout 5s", /--idle-timeout needs --tcp/],
    ["forward :80 --udp --to 192.0.2.1:80 --keepalive 5s", /--keepalive needs --tcp/],
    [
      "forward --no-transparent :8019 --to 127.0.0.1:8019",
      /--to 127.0.0.1:8019 is this proxy itself/,
    ],
    [
      "forward --no-transparent [::]:8019 --to [::1]:8019",
      /--to \[::1\]:8019 is this proxy itself/,
    ],
    ["forward :80 --udp --to 192.0.2.1:80 --udp-timeout 53=x", /"x" is not a duration/],
    ["forward :80 --udp --to 192.0.2.1:80 --udp-timeout x=5s", /"x" is not a port/],
    ["forward :80 --udp --to 192.0.2.1:80 --send-proxy v1", /v1 supports TCP only/],
    ["forward :80 --to 192.0.2.1:80 --send-proxy v2:every", /--send-proxy v2:every needs --udp/],
    [
      "forward :80 --udp --to 192.0.2.1:80 --workers 4 --max-sessions 3",
      /--max-sessions 3 is less than one for each of the 4 workers/,
    ],
  ])("%s", async (line, says) => {
    const { status, stderr, stdout } = await run(line.split(" "));
    expect(stderr).toMatch(says);
    expect(stderr.trimEnd()).not.toContain("\n");
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });
});
