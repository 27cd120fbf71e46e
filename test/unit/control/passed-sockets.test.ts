/** Sockets that are passed at the start: the variables, the names, and who takes them. */

import { afterEach, describe, expect, test } from "bun:test";
import {
  F_GETFD,
  F_GETFL,
  FD_CLOEXEC,
  O_NONBLOCK,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../../../ffi/constants.ts";
import * as sys from "../../../ffi/sys.ts";
import { parseListen } from "../../../src/config/listen.ts";
import { complete, type Service } from "../../../src/config/service.ts";
import {
  type InheritedSocket,
  InheritedSockets,
  inspectSocket,
} from "../../../src/control/inherited-sockets.ts";
import { openForWorkers } from "../../../src/control/listeners.ts";
import { FdStore } from "../../../src/control/systemd/fd-store.ts";
import {
  isStored,
  passedDescriptors,
  placeOf,
} from "../../../src/control/systemd/passed-sockets.ts";
import { boundSocket, localAddress } from "../../helpers/sockets.ts";

const opened = new Set<number>();
const keep = (fd: number) => {
  opened.add(fd);
  return fd;
};
const close = (fd: number) => {
  opened.delete(fd);
  sys.close(fd);
};
afterEach(() => {
  for (const fd of opened) close(fd);
});

function services(listen: Readonly<Record<string, readonly string[]>>): readonly Service[] {
  const listens = (texts: readonly string[]) =>
    texts.map((text) => {
      const parsed = parseListen(text);
      if (!parsed.ok) throw new Error(parsed.error);
      return parsed.value;
    });
  return complete({
    service: Object.entries(listen).map(([name, texts]) => ({ name, listen: listens(texts) })),
  }).services;
}

describe("the variables", () => {
  test.each([
    [{}, []],
    [{ LISTEN_PID: "7" }, []],
    [{ LISTEN_PID: "8", LISTEN_FDS: "1" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "many" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "-1" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "0" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "1" }, [{ fd: 3, name: "" }]],
    [
      { LISTEN_PID: "7", LISTEN_FDS: "3", LISTEN_FDNAMES: "a:b.1" },
      [
        { fd: 3, name: "a" },
        { fd: 4, name: "b.1" },
        { fd: 5, name: "" },
      ],
    ],
  ])("%p", (env, expected) => {
    expect(passedDescriptors(env as NodeJS.ProcessEnv, 7)).toEqual(expected);
  });
});

describe("names", () => {
  const all = services({ web: [":1", ":2"], "web.1": [":3"] });

  test("of services and of their listeners", () => {
    const [web, other] = all as [Service, Service];
    expect(placeOf("web", all)).toEqual({ service: web, index: undefined });
    expect(placeOf("web.0", all)).toEqual({ service: web, index: 0 });
    // A service's own name comes first.
    expect(placeOf("web.1", all)).toEqual({ service: other, index: undefined });
    expect(placeOf("web.2", all)).toBe("service web has listeners 0 to 1");
    expect(placeOf("mail", all)).toContain("no service has this name");
    expect(placeOf("mail.0", all)).toContain("no service has this name");
  });

  test("that the manager gives by itself say nothing", () => {
    for (const name of ["", "unknown", "tproxy.socket"]) expect(placeOf(name, all)).toBeUndefined();
  });

  test("of what is stored", () => {
    expect(["tproxy.web.0", "tproxy.a.b.12", "stored"].every(isStored)).toBe(true);
    expect(["tproxy.socket", "web.0", "tproxy.web", ""].some(isStored)).toBe(false);
  });
});

describe("a listener takes what has its address", () => {
  const socketAt = (type: number) => inspectSocket(keep(boundSocket(type))) as InheritedSocket;

  test("once inspected it neither blocks nor survives exec", () => {
    const { fd, protocol, local } = socketAt(SOCK_STREAM);
    expect([protocol, local]).toEqual(["tcp", localAddress(fd)]);
    expect(sys.fcntl(fd, F_GETFD, 0) & FD_CLOEXEC).toBe(FD_CLOEXEC);
    expect(sys.fcntl(fd, F_GETFL, 0) & O_NONBLOCK).toBe(O_NONBLOCK);
  });

  test("what could not serve has a reason", () => {
    expect(inspectSocket(1 << 30)).toContain("no socket");
    expect(inspectSocket(keep(sys.eventfd(0, 0)))).toContain("no socket");
    expect(inspectSocket(keep(sys.socket(1, SOCK_DGRAM, 0)))).toContain("neither of IPv4");
    expect(inspectSocket(keep(sys.socket(2, SOCK_STREAM, 0)))).toContain("does not listen");
  });

  test("by protocol, address and port; the rest is closed", () => {
    const [tcp, udp, other] = [socketAt(SOCK_STREAM), socketAt(SOCK_DGRAM), socketAt(SOCK_STREAM)];
    const inherited = new InheritedSockets([tcp, udp, other]);
    expect(inherited.take({ protocol: "udp", local: tcp.local })).toEqual([]);
    expect(
      inherited.take({ protocol: "tcp", local: { ...tcp.local, address: new Uint8Array(4) } }),
    ).toEqual([]);
    expect(inherited.take({ protocol: "tcp", local: tcp.local })).toEqual([tcp]);
    expect(inherited.take({ protocol: "tcp", local: tcp.local })).toEqual([]);
    expect(inherited.take({ protocol: "udp", local: { ...udp.local, port: 0 } })).toEqual([udp]);
    expect(inherited.closeRest()).toEqual([other]);
    opened.delete(other.fd);
    expect(inspectSocket(other.fd)).toContain("no socket");
    expect(inherited.closeRest()).toEqual([]);
  });

  test.each([
    ["tcp", 1, 3],
    ["tcp", 3, 2],
    ["udp", 1, 3],
    ["udp", 4, 2],
  ] as const)("of %s, %d inherited ones serve %d workers", (protocol, count, workers) => {
    const options = { hasSessions: true, user: undefined, transparent: false } as const;
    const [at] = services({ a: [`${protocol}://127.0.0.1:0`] })[0]?.listen ?? [];
    if (at === undefined) throw new Error("no listener");
    const earlier = openForWorkers(count, [at], options).flat();
    const inherited = new InheritedSockets(
      earlier.map(({ fd }) => inspectSocket(fd) as InheritedSocket),
    );
    const port = earlier[0]?.local.port ?? 0;
    const again = { ...at, endpoint: { ...at.endpoint, port } } as typeof at;
    const sets = openForWorkers(workers, [again], { ...options, inherited });
    for (const { fd } of sets.flat()) keep(fd);
    expect(inherited.closeRest()).toEqual([]);
    expect(sets.map((set) => set.length)).toEqual(
      Array.from({ length: workers }, (_, worker) =>
        Math.max(1, Math.ceil((count - worker) / workers)),
      ),
    );
    for (const { local } of sets.flat()) expect(local.port).toBe(port);
    const served = sets.flat().map(({ fd }) => fd);
    for (const { fd } of earlier) expect(served).toContain(fd);
  });
});

describe("the store", () => {
  test("keeps just what serves, each socket once, under a name of its own", () => {
    const said: string[] = [];
    const manager = {
      store: (name: string, fd: number) => void said.push(`store ${name} ${fd}`),
      forget: (name: string) => void said.push(`forget ${name}`),
    };
    const [a, b, c, owned] = [0, 0, 0, 0].map(() => keep(boundSocket())) as [
      number,
      number,
      number,
      number,
    ];
    const inode = (fd: number) => (inspectSocket(fd) as InheritedSocket).inode;
    const earlier = new Map([
      [inode(a), "tproxy.web.1"],
      [1, "tproxy.gone.0"],
    ]);
    const store = new FdStore(manager, earlier, new Set([inode(owned)]));
    const web = (fd: number) => ({ service: "web", fd });
    store.keep([web(a), web(b), web(b), web(c), web(owned)]);
    expect(said.splice(0)).toEqual([
      "forget tproxy.gone.0",
      `store tproxy.web.0 ${b}`,
      `store tproxy.web.2 ${c}`,
    ]);
    store.keep([web(a), web(b), web(c)]);
    expect(said.splice(0)).toEqual([]);
    store.keep([web(c), { service: "dns", fd: b }]);
    expect(said.splice(0)).toEqual(["forget tproxy.web.1"]);
    expect([...store.kept.values()].sort()).toEqual(["tproxy.web.0", "tproxy.web.2"]);
    store.keep([]);
    expect(said.length).toBe(2);
  });
});
