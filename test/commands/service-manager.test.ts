/** `tproxy run` under a service manager: notification, watchdog, socket activation, the store. */

import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { SOCK_DGRAM, SOCK_STREAM } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import { backend, cleanUp } from "../helpers/forward.ts";
import { freePort } from "../helpers/ports.ts";
import { TestManager } from "../helpers/service-manager.ts";
import { boundSocket, localAddress } from "../helpers/sockets.ts";
import { testWith } from "../helpers/tools.ts";
import { eventually, start, tproxy } from "../helpers/tproxy.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

let manager: TestManager;
const opened: number[] = [];
const managed = (title: string, body: () => Promise<void>) =>
  test(title, async () => {
    manager = new TestManager();
    try {
      await body();
    } finally {
      await manager.close();
    }
  }, 240_000);

afterEach(async () => {
  for (const fd of opened.splice(0)) sys.close(fd);
  await cleanUp();
});

const keep = (fd: number) => {
  opened.push(fd);
  return fd;
};
const portOf = (fd: number) => localAddress(fd).port;

/** A service at 127.0.0.1, not transparent, so that it takes no privilege. */
function service(name: string, listen: readonly string[], to: number): string {
  return [
    "[[service]]",
    `name = "${name}"`,
    `listen = ${JSON.stringify(listen)}`,
    `to = "127.0.0.1:${to}"`,
    'transparent = false\nsource = "self"\n',
  ].join("\n");
}

const greeting = () => backend((socket) => void socket.end("hello"));

async function greetedAt(port: number): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1" });
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  await once(socket, "close");
  return text;
}

describe("notification", () => {
  managed("says when it serves, that it turns, and when it stops", async () => {
    const port = freePort();
    const configuration = service("web", [`127.0.0.1:${port}`], await greeting());
    const proxy = manager.run(configuration, [], { WATCHDOG_USEC: "200000" });
    const ready = await manager.heard(/^READY=1\n/);
    expect(ready).toContain("STATUS=configuration 1; 1 service; 0 connections");
    expect(await greetedAt(port)).toBe("hello");
    for (let beats = 0; beats < 3; beats++) await manager.heard(/^WATCHDOG=1\n$/);
    proxy.kill("SIGTERM");
    expect(await manager.heard(/^STOPPING=1\n/)).toContain("STATUS=stopping");
    expect(await proxy.exited).toBe(0);
    expect(proxy.output()).not.toContain("service manager");
  });

  managed("no watchdog beats while the process hangs", async () => {
    const configuration = service("web", [`127.0.0.1:${freePort()}`], 9);
    const proxy = manager.run(configuration, [], { WATCHDOG_USEC: "100000" });
    await manager.heard(/^READY=1\n/);
    await manager.heard(/^WATCHDOG=1\n$/);
    proxy.kill("SIGSTOP");
    const state = () => readFileSync(`/proc/${proxy.pid}/stat`, "latin1").split(") ")[1]?.[0];
    await eventually("it has stopped", () => state() === "T");
    manager.receive();
    manager.messages.length = 0;
    await Bun.sleep(300);
    expect(manager.messages).toEqual([]);
    proxy.kill("SIGCONT");
    await manager.heard(/^WATCHDOG=1\n$/);
  });

  test("a manager that is not there costs one line", async () => {
    const port = freePort();
    const listen = [`127.0.0.1:${port}`, "--to", `127.0.0.1:${await greeting()}`];
    const plain = ["--no-transparent", "--source", "self"];
    const proxy = start(["forward", ...listen, ...plain], {
      env: { NOTIFY_SOCKET: "/nonexistent/notify", WATCHDOG_USEC: "20000" },
    });
    await proxy.until(/cannot notify the service manager/);
    expect(await greetedAt(port)).toBe("hello");
    proxy.kill("SIGTERM");
    const { stdout, status } = await proxy.finished();
    expect(status).toBe(0);
    expect(stdout.match(/service manager/g)).toHaveLength(1);
  });
});

describe("socket activation", () => {
  managed("TCP and UDP sockets are served by their names and addresses", async () => {
    const [tcp, udp] = [keep(boundSocket(SOCK_STREAM)), keep(boundSocket(SOCK_DGRAM))];
    const [web, dns] = [portOf(tcp), portOf(udp)];
    const [peer, client] = [await udpPeer((data) => data), await udpPeer()];
    const proxy = manager.run(
      `workers = 2\n${service("web", [`127.0.0.1:${web}`], await greeting())}` +
        service("dns", [`udp://127.0.0.1:${freePort()}`, `udp://127.0.0.1:${dns}`], peer.port),
      [
        ["web", tcp],
        ["dns.1", udp],
      ],
    );
    await manager.heard(/^READY=1\n/);
    expect(await greetedAt(web)).toBe("hello");
    expect(await ask(client, dns, "question")).toBe("question");
    // The units keep theirs; what was bound besides, by a second Worker as well, is stored.
    await eventually("the store", () => manager.store.size === 4);
    expect([...manager.store.keys()].sort()).toEqual([
      ...["tproxy.dns.0", "tproxy.dns.1", "tproxy.dns.2", "tproxy.web.0"],
    ]);
    proxy.kill("SIGTERM");
    expect(await proxy.exited).toBe(0);
  });

  managed("one that the configuration does not want ends the start, with the reason", async () => {
    const tcp = keep(boundSocket(SOCK_STREAM));
    const at = `tcp://127.0.0.1:${portOf(tcp)}`;
    const wanted = `127.0.0.1:${freePort()}`;
    const refused = async (name: string, fd: number) => {
      const proxy = manager.run(service("web", [wanted], 9), [[name, fd]]);
      const status = await proxy.exited;
      return [status, proxy.output()];
    };
    const first = (name: string, what: string) =>
      `tproxy: Cannot use the socket "${name}" that was passed, ${what}: `;
    expect(await refused("web", tcp)).toEqual([
      1,
      `${first("web", at)}service web listens at tcp://${wanted}\n`,
    ]);
    expect(await refused("mail", tcp)).toEqual([
      1,
      `${first("mail", at)}no service has this name: FileDescriptorName= takes SERVICE or ` +
        "SERVICE.INDEX\n",
    ]);
    expect(await refused("x.socket", tcp)).toEqual([
      1,
      `${first("x.socket", at)}no service listens there\n`,
    ]);
    const [status, text] = await refused("web", keep(sys.eventfd(0, 0)));
    expect([status, text]).toEqual([1, expect.stringContaining("descriptor 3: it is no socket")]);
  });

  const activate = testWith(["systemd-socket-activate"]);
  activate("by systemd-socket-activate, which starts it at the first connection", async () => {
    manager = new TestManager();
    const port = freePort();
    const file = join(manager.folder, "tproxy.toml");
    await Bun.write(file, service("web", [`127.0.0.1:${port}`], await greeting()));
    const command = ["systemd-socket-activate", "-l", `127.0.0.1:${port}`, "--fdname=web"];
    const proxy = start([...tproxy, "run", "-c", file], { command });
    await eventually("its listener", () => proxy.stderr().includes("Listening on"));
    expect(await greetedAt(port)).toBe("hello");
    expect(await greetedAt(port)).toBe("hello");
    proxy.kill("SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
    await manager.close();
  });
});

describe("the store", () => {
  managed("keeps listeners over a kill: clients wait, and none is refused", async () => {
    const [web, dns] = [freePort(), freePort()];
    const [peer, client] = [await udpPeer((data) => data), await udpPeer()];
    const configuration = (ports: readonly number[]) =>
      `workers = 2\n${service(
        "web",
        ports.map((port) => `127.0.0.1:${port}`),
        hello,
      )}${service("dns", [`udp://127.0.0.1:${dns}`], peer.port)}`;
    const hello = await greeting();
    const other = freePort();
    let proxy = manager.run(configuration([web, other]));
    await manager.heard(/^READY=1\n/);
    await eventually("all sockets", () => manager.store.size === 6);
    proxy.kill("SIGKILL");
    await proxy.exited;
    // Nobody runs; connections wait in the queue of what is kept.
    const waiting = Promise.all(Array.from({ length: 20 }, () => greetedAt(web)));
    const waitingOther = connect({ port: other, host: "127.0.0.1" });
    waitingOther.on("error", () => {});
    const cut = new Promise((resolve) => waitingOther.on("close", resolve));
    proxy = manager.run(configuration([web]), [...manager.store]);
    await manager.heard(/^READY=1\n/);
    expect(await waiting).toEqual(new Array(20).fill("hello"));
    expect(await ask(client, dns, "question")).toBe("question");
    // What the configuration does not have any more swallows nothing.
    await eventually("its removal", () => manager.store.size === 4);
    await cut;
    expect([...manager.store.keys()].sort()).toEqual([
      ...["tproxy.dns.0", "tproxy.dns.1", "tproxy.web.0", "tproxy.web.2"],
    ]);
    proxy.kill("SIGTERM");
    expect(await proxy.exited).toBe(0);
  });
});
