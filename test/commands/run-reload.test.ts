/** `run`, and SIGHUP: all of another configuration is taken over, or nothing of it. */

import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf } from "../helpers/forward.ts";
import { freePorts } from "../helpers/ports.ts";
import { generator } from "../helpers/random.ts";
import { runServer } from "../helpers/run.ts";
import { eventually, run } from "../helpers/tproxy.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

/** A server that gives its name in front of all that it sends back. */
const named = (name: string) =>
  backend((socket) => {
    socket.write(`${name} `);
    socket.pipe(socket);
  });

/** A connection, and what has come on it. */
class Client {
  received = "";
  isClosed = false;
  private readonly socket: Socket;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1" });
    this.socket.on("data", (data) => {
      this.received += data;
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      this.isClosed = true;
    });
    cleanups.push(() => this.close());
  }

  /** Sends a word; settles with all that has come when it is back, or nothing will come. */
  async say(word: string): Promise<string> {
    this.socket.write(`<${word}>`);
    await eventually(
      `the echo of ${word}`,
      () => this.received.includes(`<${word}>`) || this.isClosed,
    );
    return this.received;
  }

  close(): void {
    this.socket.destroy();
  }
}

/** What a process listens at: `tcp 80`, `udp 53`. */
function listening(pid: number): Set<string> {
  const found = new Set<string>();
  for (const protocol of ["tcp", "udp"] as const) {
    const own = new Set(Array.from(socketInodes(pid)));
    for (const line of readFileSync(`/proc/${pid}/net/${protocol}`, "latin1")
      .split("\n")
      .slice(1)) {
      const [, local = "", , state, , , , , , inode = ""] = line.trim().split(/\s+/);
      const isOpen = protocol === "udp" ? state === "07" : state === "0A";
      if (isOpen && own.has(inode))
        found.add(`${protocol} ${parseInt(local.split(":")[1] ?? "", 16)}`);
    }
  }
  return found;
}

function* socketInodes(pid: number): Generator<string> {
  const { stdout } = Bun.spawnSync(["ls", "-l", `/proc/${pid}/fd`]);
  for (const [, inode = ""] of String(stdout).matchAll(/socket:\[(\d+)\]/g)) yield inode;
}

const service = (name: string, settings: string) =>
  `[[service]]\nname = "${name}"\ntransparent = false\nsource = "self"\n${settings}\n`;

describe("run", () => {
  test("several services in two Workers, and a name that is not known yet", async () => {
    const to = await named("one");
    const answering = await udpPeer((data) => Buffer.from(`answer to ${data}`));
    const [web, dns, dead, off] = freePorts(4) as [number, number, number, number];
    const { proxy } = await runServer(
      `workers = 2
       [log]
       format = "json"
       [[pool]]
       name = "web"
       to = ["127.0.0.1:${to}", "nowhere.invalid:80"]
       ${service("web", `listen = ["127.0.0.1:${web}"]\npool = "web"`)}
       ${service(
         "dns",
         `listen = ["udp://127.0.0.1:${dns}", "tcp://127.0.0.1:${dns}"]
                        to = "127.0.0.1:${answering.port}"`,
       )}
       ${service("dead", `listen = "127.0.0.1:${dead}"\nto = "nowhere.invalid:80"`)}
       ${service("off", `listen = "127.0.0.1:${off}"\nto = "127.0.0.1:${to}"\nenabled = false`)}`,
      4,
    );
    const open = new Client(web);
    expect(await open.say("hello")).toBe("one <hello>");
    const asking = await udpPeer();
    expect(await ask(asking, dns, "question")).toBe("answer to question");
    const refused = new Client(dead);
    await eventually("its end", () => refused.isClosed);
    expect(listening(proxy.pid)).toEqual(
      new Set([`tcp ${web}`, `udp ${dns}`, `tcp ${dns}`, `tcp ${dead}`]),
    );
    await eventually("the line", () => eventsOf(proxy, "forwarded").length >= 1);
    expect(eventsOf(proxy, "forwarded")[0]).toMatchObject({
      ...{ service: "dead", reason: "no-upstream" },
    });
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings.join("\n")).toContain('pool dead: the name "nowhere.invalid" is not found');
    open.close();
    proxy.kill("SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
  });

  test("without a service that is enabled it says so, and there is nothing to do", async () => {
    const text = `${service("a", 'listen = ":1"\nto = "127.0.0.1:1"\nenabled = false')}`;
    const { status, stderr } = await run(["run", "-c", "-"], { input: text });
    expect([status, stderr]).toEqual([0, "tproxy: -: no service is enabled: nothing to do\n"]);
  });

  test("a configuration with problems: each with its place, status 2", async () => {
    const text = `${service("a", 'listen = ":1"\nto = "127.0.0.1:1"\nidle-timeut = "5s"')}`;
    const { status, stderr } = await run(["run", "-c", "-"], { input: text });
    expect(stderr).toMatch(/^-:7:1: service "a": idle-timeut: .* did you mean "idle-timeout"\?\n$/);
    expect(status).toBe(2);
  });

  test("a contradiction with this host: one line, status 2", async () => {
    const [port] = freePorts(1);
    const text = service("a", `listen = "127.0.0.1:${port}"\nto = "127.0.0.1:${port}"`);
    const { status, stderr } = await run(["run", "-c", "-"], { input: text });
    expect(stderr).toBe(
      `tproxy: service "a": to: 127.0.0.1:${port} is this proxy itself: give the address of the ` +
        "server\n",
    );
    expect(status).toBe(2);
  });
});

describe("a reload", () => {
  test("that cannot be taken over changes nothing, and the next one is taken over", async () => {
    const to = await named("one");
    const [first, second] = freePorts(2) as [number, number];
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    cleanups.push(() => taken.close());
    const { port } = taken.address() as { port: number };
    const own = service("a", `listen = "127.0.0.1:${first}"\nto = "127.0.0.1:${to}"`);
    const { proxy, reload } = await runServer(own, 1);
    const open = new Client(first);
    await open.say("before");
    const other = (settings: string) => own + service("b", settings);
    for (const wrong of [
      "this is not TOML",
      other(`listen = "127.0.0.1:${second}"\npool = "none"`),
      other(`listen = ["127.0.0.1:${second}", "127.0.0.1:${port}"]\nto = "127.0.0.1:${to}"`),
      other(`listen = "127.0.0.1:${second}"\nto = "127.0.0.1:${second}"`),
      `workers = 2\n[log]\nformat = "json"\n${other(`listen = ":${second}"\nto = "original"`)}`,
      `${own}transparent2 = 1`,
    ]) {
      await reload(wrong);
      expect(listening(proxy.pid)).toEqual(new Set([`tcp ${first}`]));
      expect(await open.say("after")).toContain("one <before>");
    }
    expect(eventsOf(proxy, "reloaded")).toEqual([]);
    const told = eventsOf(proxy, "warning").map(({ text }) => String(text));
    expect(told.join("\n")).toContain('there is no pool "none"');
    expect(told.join("\n")).toContain(`Cannot bind tcp://127.0.0.1:${port}`);
    expect(told.join("\n")).toContain("reload: ~ workers 1 -> 2");
    await reload(own);
    expect(eventsOf(proxy, "reloaded")).toMatchObject([{ generation: 1 }]);
    await reload(other(`listen = "127.0.0.1:${second}"\nto = "127.0.0.1:${to}"`));
    expect(eventsOf(proxy, "reloaded").at(-1)).toMatchObject({ generation: 2 });
    expect(await new Client(second).say("new")).toBe("one <new>");
    expect(await open.say("at last")).not.toContain("one <new>");
  });

  test("time-outs apply to open connections; those of what is gone go on", async () => {
    const [one, two] = [await named("one"), await named("two")];
    const [first, second, third] = freePorts(3) as [number, number, number];
    const at = (port: number, to: number, more = "") =>
      service("a", `listen = "127.0.0.1:${port}"\nto = "127.0.0.1:${to}"\n${more}`);
    const gone = service("b", `listen = "127.0.0.1:${second}"\nto = "127.0.0.1:${one}"`);
    const { proxy, reload } = await runServer(at(first, one) + gone, 2);
    const [open, left] = [new Client(first), new Client(second)];
    await Promise.all([open.say("a"), left.say("b")]);
    // Another upstream and another port: the old connections stay where they are.
    await reload(at(third, two));
    // Listeners that are gone accept for a moment longer.
    await eventually("the listeners", () => [...listening(proxy.pid)].join() === `tcp ${third}`);
    expect(await open.say("c")).toBe("one <a><c>");
    expect(await left.say("d")).toBe("one <b><d>");
    expect(await new Client(third).say("e")).toBe("two <e>");
    await reload(at(third, two, 'idle-timeout = "300ms"'));
    await open.say("f");
    await eventually("the time-out", () => open.isClosed);
    expect(left.isClosed).toBe(false);
  });

  test("sessions of an upstream that is gone end, and begin anew", async () => {
    const [port] = freePorts(1) as [number];
    const [one, two] = [
      await udpPeer(() => Buffer.from("1")),
      await udpPeer(() => Buffer.from("2")),
    ];
    const at = (to: number) =>
      service("a", `listen = "udp://127.0.0.1:${port}"\nto = "127.0.0.1:${to}"`);
    const { proxy, reload } = await runServer(at(one.port), 1);
    const asking = await udpPeer();
    expect(await ask(asking, port, "x")).toBe("1");
    await reload(at(two.port));
    expect(await ask(asking, port, "x")).toBe("2");
    const ended = eventsOf(proxy, "forwarded");
    expect(ended).toMatchObject([{ service: "a", protocol: "udp", reason: "removed" }]);
  });
});

describe("a listener that takes the place of others", () => {
  const places = ["127.0.0.1", "0.0.0.0", "[::]", "0.0.0.0", "[::]", "127.0.0.1", "[::]"];

  test("TCP: under load nobody is refused, whichever of both is wider", async () => {
    const to = await named("one");
    const [port] = freePorts(1) as [number];
    const at = (address: string, name = "a") =>
      service(name, `listen = "${address}:${port}"\nto = "127.0.0.1:${to}"`);
    const { proxy, reload } = await runServer(at("127.0.0.1"), 1);
    const open = new Client(port);
    await open.say("first");
    let isOver = false;
    let asked = 0;
    const failures: string[] = [];
    const load = [1, 2, 3].map(async () => {
      for (; !isOver; asked++) {
        const client = new Client(port);
        const answer = await client.say("load");
        if (answer !== "one <load>") failures.push(answer);
        client.close();
      }
    });
    for (const [turn, address] of [...places, ...places].entries()) {
      const before = asked;
      await reload(at(address, turn % 3 === 0 ? "a" : "b"));
      await eventually("some connections", () => asked > before + 5);
    }
    isOver = true;
    await Promise.all(load);
    expect(failures).toEqual([]);
    expect(eventsOf(proxy, "reloaded").length).toBe(2 * places.length);
    expect(await open.say("last")).toBe("one <first><last>");
  });

  test("several Workers, whose sockets may have an owner of their own", async () => {
    const to = await named("one");
    const [port] = freePorts(1) as [number];
    const at = (address: string) =>
      `workers = 2\n[log]\nformat = "json"\n` +
      service("a", `listen = "${address}:${port}"\nto = "127.0.0.1:${to}"`);
    const { proxy, reload } = await runServer(at("127.0.0.1"), 1);
    for (const address of places.slice(1)) {
      await reload(at(address));
      expect(eventsOf(proxy, "bound").at(-1)).toMatchObject({ address: `${address}:${port}` });
      expect(await new Client(port).say("x")).toBe("one <x>");
    }
  });

  test("UDP: each question is answered, and sessions begin anew", async () => {
    const answering = await udpPeer((data) => Buffer.from(`answer to ${data}`));
    const [port] = freePorts(1) as [number];
    const at = (address: string) =>
      service("a", `listen = "udp://${address}:${port}"\nto = "127.0.0.1:${answering.port}"`);
    const { proxy, reload } = await runServer(at("127.0.0.1"), 1);
    const asking = await udpPeer();
    for (const address of places) {
      await reload(at(address));
      expect(await ask(asking, port, address)).toBe(`answer to ${address}`);
    }
    expect(eventsOf(proxy, "forwarded").map(({ reason }) => reason)).toContain("removed");
  });

  test.skipIf(process.getuid?.() !== 0)(
    "a service of another name may be transparent",
    async () => {
      const to = await named("one");
      const [port] = freePorts(1) as [number];
      const at = (name: string, isTransparent: boolean) =>
        service(name, `listen = "127.0.0.1:${port}"\nto = "127.0.0.1:${to}"`).replace(
          "transparent = false",
          `transparent = ${isTransparent}`,
        );
      const { reload } = await runServer(at("a", false), 1);
      const flag = () => {
        const filter = ["-tlnH", "--inet-sockopt", `sport = :${port}`];
        return String(Bun.spawnSync(["ss", ...filter]).stdout).includes("transparent");
      };
      expect(flag()).toBe(false);
      await reload(at("b", true));
      expect(flag()).toBe(true);
      await reload(at("c", false));
      expect(flag()).toBe(false);
      expect(await new Client(port).say("x")).toBe("one <x>");
    },
  );

  test("if anything else fails, the old one goes on as before", async () => {
    const to = await named("one");
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    cleanups.push(() => taken.close());
    const { port: other } = taken.address() as { port: number };
    const [port] = freePorts(1) as [number];
    const at = (...listen: string[]) =>
      service("a", `listen = ${JSON.stringify(listen)}\nto = "127.0.0.1:${to}"`);
    for (const [old, next] of [
      ["127.0.0.1", "[::]"],
      ["0.0.0.0", "127.0.0.1"],
    ]) {
      const { proxy, reload } = await runServer(at(`${old}:${port}`), 1);
      await reload(at(`${next}:${port}`, `127.0.0.1:${other}`));
      const told = eventsOf(proxy, "warning").map(({ text }) => String(text));
      expect(told.join("\n")).toContain(`reload: Cannot bind tcp://127.0.0.1:${other}`);
      expect(listening(proxy.pid)).toEqual(new Set([`tcp ${port}`]));
      const clients = [new Client(port)];
      expect(await clients[0]?.say("x")).toBe("one <x>");
      await reload(at(`${next}:${port}`));
      clients.push(new Client(port));
      expect(await clients[1]?.say("y")).toBe("one <y>");
      for (const client of clients) client.close();
      proxy.kill("SIGTERM");
      expect((await proxy.finished()).status).toBe(0);
    }
  });
});

describe("tproxy reload", () => {
  test("prints each change, and the status says what has come of it", async () => {
    const to = await named("one");
    const [port, other] = freePorts(2) as [number, number];
    const own = service("a", `listen = "127.0.0.1:${port}"\nto = "127.0.0.1:${to}"`);
    const more = `${own}idle-timeout = "5m"\n`;
    const { proxy, file } = await runServer(own, 1, { args: ["--admin", "admin.sock"] });
    const ask = (...args: string[]) =>
      run(["reload", "--admin", "admin.sock", ...args], { cwd: dirname(file) });
    const write = (text: string) => writeFile(file, `[log]\nformat = "json"\n${text}`);
    const change = "~ service a: idle-timeout 10m -> 5m\n";
    await eventually("the socket", () => existsSync(join(dirname(file), "admin.sock")));
    expect(await ask()).toMatchObject({ status: 0, stdout: "nothing to change\n" });
    await write(more);
    expect(await ask("--dry-run")).toMatchObject({
      ...{ status: 0, stdout: `${change}nothing was changed: this was a dry run\n` },
    });
    expect(await ask()).toMatchObject({ status: 0, stdout: `${change}applied: generation 2\n` });
    const wrong = service("b", `listen = "127.0.0.1:${other}"\nto = "127.0.0.1:1"\nx = 1`);
    await write(more + wrong);
    const invalid = await ask();
    expect(invalid.stderr).toContain('service "b": x: "x" is no setting here');
    expect(invalid.stderr).toEndWith("the configuration has problems\n");
    expect(invalid.stderr).toMatch(new RegExp(`^${file}:16:1: service "b": x: `));
    expect([invalid.status, invalid.stdout]).toEqual([2, ""]);
    const { problems } = JSON.parse((await ask("--json")).stdout);
    expect(problems).toMatchObject([{ file, line: 16, column: 1 }]);
    expect(problems[0].message).toStartWith('service "b": x: "x" is no setting here');
    await writeFile(file, `workers = 2\n[log]\nformat = "json"\n${more}`);
    const upgrade = await ask();
    expect([upgrade.status, upgrade.stderr]).toEqual([
      4,
      "~ workers 1 -> 2\ntproxy: nothing was changed: an upgrade is needed\n",
    ]);
    proxy.kill("SIGKILL");
    await proxy.finished();
    expect((await ask()).status).toBe(3);
  });
});

/** One of the services of the random configurations. */
interface RandomService {
  readonly name: string;
  readonly ports: readonly number[];
  readonly protocol: "tcp" | "udp";
  readonly to: number;
  readonly hasHeader: boolean;
  readonly isEnabled: boolean;
  readonly more: string;
}

/**
 * Services of a few names at a few ports, of which each has one owner, and the first port always
 * belongs to the same service.
 */
function randomServices(
  next: (below: number) => number,
  ports: readonly number[],
  upstreams: readonly number[],
): RandomService[] {
  const names = ["stays", "b", "c", "d"];
  const owners = ports.map((_, i) => (i === 0 ? 0 : next(names.length + 2)));
  return names.flatMap((name, i): RandomService[] => {
    const own = ports.filter((_, at) => owners[at] === i);
    if (own.length === 0) return [];
    const protocol = i === 0 || next(4) > 0 ? "tcp" : "udp";
    const options = [
      "",
      ...['idle-timeout = "60s"', 'connect-timeout = "5s"', 'half-closed-timeout = "9s"'],
      ...["max-connections = 1000", "max-connections-per-client = 900", 'user-timeout = "60s"'],
    ];
    const more = protocol === "tcp" ? (options[next(options.length)] as string) : "";
    const hasHeader = protocol === "tcp" && next(3) === 0;
    const isEnabled = i === 0 || next(5) > 0;
    const to = next(upstreams.length);
    return [{ name, ports: own, protocol, to, hasHeader, isEnabled, more }];
  });
}

const names = ["one", "two", "three"];

/** Waits for the listeners of a process: those that are gone accept for a moment longer. */
async function listensAt(pid: number, expected: readonly string[], what: string): Promise<void> {
  const wanted = expected.toSorted().join();
  await eventually(what, () => [...listening(pid)].sort().join() === wanted).catch((error) => {
    throw new Error(`${error}: ${[...listening(pid)].sort()} for ${wanted}`);
  });
}

/** Asks a service at one of its ports, which has to carry that as it says; TCP stays open. */
async function reaches(
  { ports, protocol, to, hasHeader }: RandomService,
  next: (below: number) => number,
): Promise<Client | undefined> {
  const port = ports[next(ports.length)] as number;
  if (protocol === "udp") {
    const asking = await udpPeer();
    expect(await ask(asking, port, "x")).toBe(names[to] as string);
    asking.close();
    return undefined;
  }
  const client = new Client(port);
  const header = hasHeader ? "PROXY TCP4 .*\\r\\n" : "";
  expect(await client.say("x")).toMatch(new RegExp(`^${names[to]} ${header}<`));
  return client;
}

/** The configuration of some services. */
function textOf(
  services: readonly RandomService[],
  workers: number,
  portOf: (service: RandomService) => number,
): string {
  const texts = services.map((each) => {
    const { name, ports, protocol, hasHeader, isEnabled, more } = each;
    const listen = ports.map((port) => `"${protocol}://127.0.0.1:${port}"`).join(", ");
    return service(
      name,
      `listen = [${listen}]\nto = "127.0.0.1:${portOf(each)}"\nenabled = ${isEnabled}\n${more}` +
        (hasHeader ? '\nsend-proxy = "v1"' : ""),
    );
  });
  return `workers = ${workers}\n[log]\nformat = "json"\n${texts.join("")}`;
}

describe("random pairs of configurations", () => {
  const seed = Number(process.env.TPROXY_SEED ?? Date.now() % 1_000_000);
  const pairs = Number(process.env.TPROXY_PAIRS ?? 30);

  test(`seed ${seed}: under load, after each it is as a fresh start would be`, async () => {
    const next = generator(seed);
    const servers = [await named("one"), await named("two"), await named("three")];
    const peers = await Promise.all(names.map((name) => udpPeer(() => Buffer.from(name))));
    const ports = freePorts(7);
    const text = (services: readonly RandomService[]) =>
      textOf(services, workers, ({ protocol, to }) =>
        Number(protocol === "tcp" ? servers[to] : peers[to]?.port),
      );
    const workers = 1 + next(2);
    let services = randomServices(next, ports, servers);
    const { proxy, reload } = await runServer(text(services), 1);
    const kept: Client[] = [];
    // All the time somebody connects to the service that stays.
    let isOver = false;
    const failures: string[] = [];
    const load = (async () => {
      for (let i = 0; !isOver; i++) {
        const client = new Client(ports[0] as number);
        const word = `load${i}`;
        if (!(await client.say(word)).includes(`<${word}>`)) failures.push(client.received);
        client.close();
      }
    })();
    for (let pair = 0; pair < pairs; pair++) {
      services = randomServices(next, ports, servers);
      await reload(text(services));
      const enabled = services.filter(({ isEnabled }) => isEnabled);
      const expected = enabled.flatMap(({ protocol, ports: own }) =>
        own.map((port) => `${protocol} ${port}`),
      );
      await listensAt(proxy.pid, expected, `the listeners of pair ${pair}`);
      for (const each of enabled) {
        const client = await reaches(each, next);
        if (client !== undefined) kept.push(client);
      }
      // Whatever has become of their service.
      const open = kept[next(kept.length)] as Client;
      expect(await open.say(`still ${pair}`)).toEndWith(`<still ${pair}>`);
    }
    isOver = true;
    await load;
    expect(failures).toEqual([]);
    for (const [i, open] of kept.entries()) {
      expect(await open.say(`last ${i}`)).toEndWith(`<last ${i}>`);
    }
    const problems = eventsOf(proxy, "warning").map(({ text: line }) => String(line));
    expect(problems.filter((line) => line.startsWith("reload:"))).toEqual([]);
    expect(eventsOf(proxy, "died")).toEqual([]);
  }, 240_000);
});
