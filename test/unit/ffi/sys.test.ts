/** `ffi/sys.ts` against the kernel: results, and negated errnos, of real sockets on loopback. */

import { afterEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import {
  AF_INET,
  AF_INET6,
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLIN,
  EPOLLOUT,
  F_GETFD,
  F_GETFL,
  F_SETFL,
  FD_CLOEXEC,
  IP_TRANSPARENT,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_TRANSPARENT,
  MSG_DONTWAIT,
  MSG_PEEK,
  O_NONBLOCK,
  RLIMIT_NOFILE,
  SHUT_WR,
  SO_ERROR,
  SO_RCVTIMEO,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  SPLICE_F_NONBLOCK,
  TCP_NODELAY,
} from "../../../ffi/constants.ts";
import { EpollEvents } from "../../../ffi/epoll.ts";
import {
  check,
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  ECONNRESET,
  EINVAL,
  ENODEV,
  ENOENT,
  ENOPROTOOPT,
  ENOTCONN,
  EPIPE,
} from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import { encodeSockaddr } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import {
  boundSocket,
  connectTo,
  localAddress,
  loopback,
  tcpPair,
  udpPair,
} from "../../helpers/sockets.ts";

const buffer = allocate(256);
const opened: number[] = [];

/** Remembers descriptors, to be closed after the test. */
function keep<T extends number | readonly number[]>(fds: T): T {
  opened.push(...[fds].flat());
  return fds;
}
afterEach(() => {
  for (const fd of opened.splice(0)) sys.close(fd);
});

/** The inodes of this process's sockets. */
function openSockets(): string[] {
  const links = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // the descriptor that read the folder
    }
  });
  return links.filter((link) => link.startsWith("socket:")).toSorted();
}
const socketsBefore = openSockets();

const text = (length: number) => new TextDecoder().decode(buffer.bytes.subarray(0, length));

/** Sends a text from the start of the shared buffer. */
function send(fd: number, words: string, flags = 0): number {
  const { written } = new TextEncoder().encodeInto(words, buffer.bytes);
  return sys.send(fd, buffer.address, written, flags);
}

function pipe(flags = 0): [number, number] {
  const ends = sys.pipe(flags);
  if (typeof ends === "number") throw new Error(`pipe2: ${ends}`);
  return keep(ends);
}

/** No table of descriptors is this long, so no other thread can be given this one meanwhile. */
const unheldFd = 1 << 30;

describe("an error is the negated errno of", () => {
  const at = buffer.address;
  const calls: Record<string, (fd: number) => number> = {
    accept4: (fd) => sys.accept4(fd, 0, 0, 0),
    bind: (fd) => sys.bind(fd, at, 16),
    bindToDevice: (fd) => sys.bindToDevice(fd, "lo"),
    close: (fd) => sys.close(fd),
    connect: (fd) => sys.connect(fd, at, 16),
    epollCtl: (fd) => sys.epollCtl(fd, EPOLL_CTL_DEL, 0, 0),
    epollWait: (fd) => sys.epollWait(fd, at, 1, 0),
    eventfdDrain: (fd) => sys.eventfdDrain(fd),
    eventfdSignal: (fd) => sys.eventfdSignal(fd),
    fcntl: (fd) => sys.fcntl(fd, F_GETFL, 0),
    getpeername: (fd) => sys.getpeername(fd, at, 128),
    getsockname: (fd) => sys.getsockname(fd, at, 128),
    getsockopt: (fd) => sys.getsockopt(fd, SOL_SOCKET, SO_ERROR),
    listen: (fd) => sys.listen(fd, 1),
    read: (fd) => sys.read(fd, at, 1),
    recv: (fd) => sys.recv(fd, at, 1, 0),
    recvmmsg: (fd) => sys.recvmmsg(fd, at, 1, 0),
    send: (fd) => sys.send(fd, at, 1, 0),
    sendmmsg: (fd) => sys.sendmmsg(fd, at, 1, 0),
    setLinger: (fd) => sys.setLinger(fd, true, 0),
    setns: (fd) => sys.setns(fd, 0),
    setReceiveTimeoutMs: (fd) => sys.setReceiveTimeoutMs(fd, 1),
    setsockopt: (fd) => sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1),
    setsockoptBytes: (fd) => sys.setsockoptBytes(fd, SOL_SOCKET, SO_REUSEADDR, at, 4),
    shutdown: (fd) => sys.shutdown(fd, SHUT_WR),
    splice: (fd) => sys.splice(fd, fd, 1, 0),
    write: (fd) => sys.write(fd, at, 1),
  };
  for (const [name, call] of Object.entries(calls)) {
    test(`${name}, of a descriptor that nothing holds`, () => {
      buffer.bytes.fill(0);
      expect(call(-1)).toBe(-EBADF);
      expect(call(unheldFd)).toBe(-EBADF);
    });
  }

  test("socket, epoll and limits, of nonsense", () => {
    expect(sys.socket(9999, SOCK_STREAM, 0)).toBeLessThan(0);
    expect(sys.eventfd(0, -1)).toBe(-EINVAL);
    expect(sys.pipe(-1)).toBe(-EINVAL);
    expect(sys.getrlimit(9999)).toBe(-EINVAL);
    expect(sys.setrlimit(9999, 1, 1)).toBe(-EINVAL);
    expect(sys.unshare(1)).toBe(-EINVAL);
  });

  test("an option of the other family", () => {
    const fd = keep(boundSocket());
    expect(sys.setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)).toBe(-ENOPROTOOPT);
  });

  test("names that no interface can have", () => {
    const fd = keep(boundSocket());
    expect(sys.bindToDevice(fd, "sixteen-letters-")).toBe(-ENODEV);
    expect(sys.bindToDevice(fd, "not-there-00")).toBe(-ENODEV);
  });

  test("a refused, a reset and a closed connection", () => {
    const listener = boundSocket(SOCK_STREAM);
    const { address, port } = localAddress(listener);
    sys.close(listener);
    const fd = keep(sys.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const length = encodeSockaddr(buffer.view, 0, address, port);
    expect(sys.getpeername(fd, buffer.address + 128, 128)).toBe(-ENOTCONN);
    expect(sys.connect(fd, buffer.address, length)).toBe(-ECONNREFUSED);

    const [client, server] = keep(tcpPair());
    check(sys.setLinger(client, true, 0), "SO_LINGER");
    sys.close(client);
    expect(sys.recv(server, buffer.address, 1, 0)).toBe(-ECONNRESET);
    // MSG_NOSIGNAL: no SIGPIPE ends this process.
    expect(send(server, "x")).toBe(-EPIPE);
  });

  test("what would block", () => {
    const [reader] = keep(udpPair());
    expect(sys.recv(reader, buffer.address, 1, MSG_DONTWAIT)).toBe(-EAGAIN);
    const [out] = pipe(O_NONBLOCK);
    expect(sys.read(out, buffer.address, 1)).toBe(-EAGAIN);
  });

  test("a call that failed, though others followed it that did not", () => {
    const results = [sys.close(-1), sys.getppid(), sys.epollWait(-1, buffer.address, 1, 0)];
    expect(results).toEqual([-EBADF, process.ppid, -EBADF]);
  });
});

describe("sockets", () => {
  test("TCP: data, peeked data, the end of one direction and then of the other", () => {
    const [client, server] = keep(tcpPair());
    expect(send(client, "hello")).toBe(5);
    expect(sys.recv(server, buffer.address, 3, MSG_PEEK)).toBe(3);
    expect(text(3)).toBe("hel");
    expect(sys.recv(server, buffer.address, 256, 0)).toBe(5);
    expect(text(5)).toBe("hello");
    expect(sys.shutdown(client, SHUT_WR)).toBe(0);
    expect(sys.recv(server, buffer.address, 256, 0)).toBe(0);
    expect(send(server, "answer")).toBe(6);
    expect(sys.read(client, buffer.address, 256)).toBe(6);
    expect(text(6)).toBe("answer");
  });

  test("accept4 tells the peer, and sets the flags", () => {
    const listener = keep(boundSocket(SOCK_STREAM));
    const client = keep(sys.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connectTo(client, listener);
    const server = keep(
      sys.accept4(listener, buffer.address, buffer.size, SOCK_NONBLOCK | SOCK_CLOEXEC),
    );
    const peer = buffer.view.getUint16(2, false);
    expect(peer).toBe(localAddress(client).port);
    expect(sys.getpeername(server, buffer.address, buffer.size)).toBe(0);
    expect(buffer.view.getUint16(2, false)).toBe(peer);
    expect(sys.fcntl(server, F_GETFL, 0) & O_NONBLOCK).toBe(O_NONBLOCK);
    expect(sys.fcntl(server, F_GETFD, 0)).toBe(FD_CLOEXEC);
  });

  test("options are read back", () => {
    const fd = keep(sys.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    expect(sys.getsockopt(fd, IPPROTO_TCP, TCP_NODELAY)).toBe(0);
    expect(sys.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, 1)).toBe(0);
    expect(sys.getsockopt(fd, IPPROTO_TCP, TCP_NODELAY)).toBe(1);
    expect(sys.getsockopt(fd, IPPROTO_IP, IP_TRANSPARENT)).toBe(0);
    expect(sys.getsockopt(fd, SOL_SOCKET, SO_ERROR)).toBe(0);
  });

  test("a receive timeout ends a receive", () => {
    const fd = keep(boundSocket());
    expect(sys.setReceiveTimeoutMs(fd, 1500)).toBe(0);
    // The option's first word is tv_sec.
    expect(sys.getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO)).toBe(1);
    expect(sys.setReceiveTimeoutMs(fd, 1)).toBe(0);
    expect(sys.recv(fd, buffer.address, 1, 0)).toBe(-EAGAIN);
  });

  test("IPv6 gets its family from 16 bytes of address", () => {
    const fd = keep(sys.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const any = encodeSockaddr(buffer.view, 0, new Uint8Array(16), 0);
    expect(sys.bind(fd, buffer.address, any)).toBe(0);
    expect(localAddress(fd).address).toEqual(new Uint8Array(16));
    const other = keep(sys.socket(AF_INET6, SOCK_DGRAM, 0));
    const v4 = encodeSockaddr(buffer.view, 0, loopback, 0);
    expect(sys.bind(other, buffer.address, v4)).toBeLessThan(0);
  });
});

describe("pipes, events and limits", () => {
  test("splice moves a socket's bytes through a pipe", () => {
    const [client, server] = keep(tcpPair());
    const [out, into] = pipe();
    expect(send(client, "through the pipe")).toBe(16);
    expect(sys.splice(server, into, 65536, SPLICE_F_NONBLOCK)).toBe(16);
    // SPLICE_F_NONBLOCK is about the pipe alone: whether the socket waits is the socket's own.
    check(sys.fcntl(server, F_SETFL, O_NONBLOCK), "fcntl");
    expect(sys.splice(server, into, 65536, SPLICE_F_NONBLOCK)).toBe(-EAGAIN);
    expect(sys.splice(out, server, 65536, 0)).toBe(16);
    expect(sys.recv(client, buffer.address, 256, 0)).toBe(16);
    expect(text(16)).toBe("through the pipe");
  });

  test("pipes are close-on-exec, and non-blocking when asked", () => {
    const [out, into] = pipe();
    expect(sys.fcntl(out, F_GETFD, 0)).toBe(FD_CLOEXEC);
    expect(sys.fcntl(into, F_GETFL, 0) & O_NONBLOCK).toBe(0);
    expect(sys.fcntl(into, F_SETFL, O_NONBLOCK)).toBe(0);
    expect(sys.fcntl(into, F_GETFL, 0) & O_NONBLOCK).toBe(O_NONBLOCK);
    expect(sys.write(into, buffer.address, 10)).toBe(10);
    expect(sys.read(out, buffer.address, 256)).toBe(10);
  });

  test("epoll tells which descriptor, with its generation", () => {
    const epoll = keep(sys.epollCreate());
    const events = new EpollEvents(4);
    const [one, other] = keep(udpPair());
    for (const [fd, generation] of [
      [one, 0xfffffffe],
      [other, 7],
    ] as const) {
      events.set(0, EPOLLIN, fd, generation);
      expect(sys.epollCtl(epoll, EPOLL_CTL_ADD, fd, events.address)).toBe(0);
    }
    expect(sys.epollWait(epoll, events.address, events.capacity, 0)).toBe(0);
    send(other, "ping");
    expect(sys.epollWait(epoll, events.address, events.capacity, -1)).toBe(1);
    expect([events.fd(0), events.generation(0), events.mask(0)]).toEqual([
      one,
      0xfffffffe,
      EPOLLIN,
    ]);
    send(one, "pong");
    expect(sys.epollWait(epoll, events.address, events.capacity, -1)).toBe(2);
    const seen = [0, 1].map((index) => [events.fd(index), events.generation(index)]);
    expect(seen.toSorted()).toEqual(
      [
        [one, 0xfffffffe],
        [other, 7],
      ].toSorted(),
    );
    expect(sys.epollCtl(epoll, EPOLL_CTL_DEL, one, 0)).toBe(0);
    expect(sys.epollCtl(epoll, EPOLL_CTL_DEL, one, 0)).toBe(-ENOENT);
  });

  test("epoll answers all events that fit, writable ones included", () => {
    const epoll = keep(sys.epollCreate());
    const events = new EpollEvents(3);
    for (const fd of keep([...udpPair(), ...udpPair()])) {
      events.set(0, EPOLLOUT, fd, fd * 2);
      expect(sys.epollCtl(epoll, EPOLL_CTL_ADD, fd, events.address)).toBe(0);
    }
    expect(sys.epollWait(epoll, events.address, events.capacity, 0)).toBe(3);
    for (const index of [0, 1, 2]) expect(events.generation(index)).toBe(events.fd(index) * 2);
  });

  test("an eventfd wakes, counts and is drained", () => {
    const fd = keep(sys.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    expect(sys.eventfdDrain(fd)).toBe(-EAGAIN);
    expect(sys.eventfdSignal(fd)).toBe(8);
    expect(sys.eventfdSignal(fd)).toBe(8);
    expect(sys.eventfdDrain(fd)).toBe(8);
    expect(sys.eventfdDrain(fd)).toBe(-EAGAIN);
  });

  test("limits are read and set", () => {
    const limit = sys.getrlimit(RLIMIT_NOFILE);
    if (typeof limit === "number") throw new Error(`getrlimit: ${limit}`);
    expect(limit.soft).toBeGreaterThan(0);
    expect(limit.hard).toBeGreaterThanOrEqual(limit.soft);
    expect(sys.setrlimit(RLIMIT_NOFILE, limit.soft - 1, limit.hard)).toBe(0);
    expect(sys.getrlimit(RLIMIT_NOFILE)).toEqual({ soft: limit.soft - 1, hard: limit.hard });
    expect(sys.setrlimit(RLIMIT_NOFILE, limit.soft, limit.hard)).toBe(0);
  });

  test("no socket of these tests is left", () => {
    expect(openSockets()).toEqual(socketsBefore);
  });
});

test("monotonicUs is the clock that the kernel counts its uptime by", () => {
  const [before] = readFileSync("/proc/uptime", "latin1").split(" ");
  const now = Number(sys.monotonicUs()) / 1e6;
  // /proc/uptime counts time asleep as well, and has two digits.
  expect(now).toBeLessThanOrEqual(Number(before) + 60);
  expect(sys.monotonicUs()).toBeGreaterThanOrEqual(BigInt(Math.floor(now * 1e6)));
  expect(now).toBeGreaterThan(0);
});
