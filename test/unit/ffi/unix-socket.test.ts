/** `ffi/unix-socket.ts` against the kernel: messages, names and descriptors that travel. */

import { afterEach, describe, expect, test } from "bun:test";
import { fstatSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AF_UNIX,
  F_GETFD,
  FD_CLOEXEC,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_SEQPACKET,
} from "../../../ffi/constants.ts";
import {
  check,
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  EINVAL,
  EMSGSIZE,
  ENOENT,
  EPIPE,
} from "../../../ffi/errno.ts";
import { allocate, allocated } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import {
  descriptorsPerMessage,
  encodeSockaddrUn,
  receiveUnix,
  sendUnix,
  type UnixMessage,
  unixMessageBytes,
} from "../../../ffi/unix-socket.ts";

const opened: number[] = [];
const keep = (fd: number) => {
  opened.push(fd);
  return fd;
};
afterEach(() => {
  for (const fd of opened.splice(0)) sys.close(fd);
});

function pair(): [number, number] {
  const ends = sys.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC);
  if (typeof ends === "number") throw new Error(`socketpair: ${ends}`);
  return [keep(ends[0]), keep(ends[1])];
}

const name = allocate(128);

function boundTo(path: string): number {
  const fd = keep(check(sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
  check(sys.bind(fd, name.address, encodeSockaddrUn(name.view, path)), "bind", path);
  return fd;
}

const encode = (text: string) => new TextEncoder().encode(text);

function received(fd: number): UnixMessage {
  const message = receiveUnix(fd);
  if (typeof message === "number") throw new Error(`recvmsg: ${message}`);
  for (const each of message.descriptors) keep(each);
  return message;
}
const text = (message: UnixMessage) => new TextDecoder().decode(message.bytes);

describe("a pair", () => {
  test("keeps the bounds of messages; nothing is -EAGAIN, the end is 0 bytes", () => {
    const [a, b] = pair();
    expect(receiveUnix(b)).toBe(-EAGAIN);
    expect(sendUnix(a, encode("one"))).toBe(3);
    expect(sendUnix(a, encode("two!"))).toBe(4);
    expect([text(received(b)), text(received(b))]).toEqual(["one", "two!"]);
    sys.close(a);
    opened.splice(opened.indexOf(a), 1);
    expect(received(b)).toEqual({ bytes: new Uint8Array(0), descriptors: [] });
    expect(sendUnix(b, encode("x"))).toBe(-EPIPE);
  });

  test("carries a message of the largest size, and none that is larger", () => {
    const [a, b] = pair();
    const large = new Uint8Array(unixMessageBytes).fill(7);
    expect(sendUnix(a, large)).toBe(large.length);
    expect(received(b).bytes).toEqual(large);
    expect(sendUnix(a, new Uint8Array(unixMessageBytes + 1))).toBe(-EMSGSIZE);
  });

  test("a message that is too large for the receiver is -EMSGSIZE", () => {
    const [a, b] = pair();
    const huge = allocate(unixMessageBytes + 1);
    expect(sys.send(a, huge.address, huge.size, 0)).toBe(huge.size);
    expect(receiveUnix(b)).toBe(-EMSGSIZE);
  });

  test("fills up with -EAGAIN, and blocks nobody", () => {
    const [a] = pair();
    let result = 0;
    for (let sent = 0; sent < 100_000 && result >= 0; sent++) result = sendUnix(a, encode("x"));
    expect(result).toBe(-EAGAIN);
  });
});

describe("descriptors", () => {
  test("arrive as others of the same files, closed at exec", () => {
    const [a, b] = pair();
    const files = Array.from({ length: 3 }, () => keep(sys.eventfd(0, 0)));
    expect(sendUnix(a, encode("take"), files)).toBe(4);
    const message = received(b);
    expect(text(message)).toBe("take");
    expect(message.descriptors.length).toBe(3);
    for (const [index, fd] of message.descriptors.entries()) {
      expect(files).not.toContain(fd);
      expect(sys.fcntl(fd, F_GETFD, 0) & FD_CLOEXEC).toBe(FD_CLOEXEC);
      expect(fstatSync(fd).ino).toBe(fstatSync(files[index] as number).ino);
    }
    expect(sys.eventfdSignal(files[1] as number)).toBe(8);
    expect(sys.eventfdDrain(message.descriptors[1] as number)).toBe(8);
  });

  test("are 252 a message at most", () => {
    const [a, b] = pair();
    const fd = keep(sys.eventfd(0, 0));
    const most = new Array<number>(descriptorsPerMessage).fill(fd);
    expect(sendUnix(a, encode("x"), [...most, fd])).toBe(-EINVAL);
    expect(sendUnix(a, encode("x"), most)).toBe(1);
    expect(new Set(received(b).descriptors).size).toBe(descriptorsPerMessage);
  });

  test("one that is not open sends nothing", () => {
    const [a, b] = pair();
    expect(sendUnix(a, encode("x"), [1 << 30])).toBe(-EBADF);
    expect(receiveUnix(b)).toBe(-EAGAIN);
  });
});

describe("names", () => {
  test("a path, and an abstract one, are reached", () => {
    const folder = mkdtempSync(join(tmpdir(), "tproxy-unix-"));
    const [a] = pair();
    const sender = keep(check(sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
    for (const path of [join(folder, "notify"), `@tproxy-test-${process.pid}`]) {
      const receiver = boundTo(path);
      expect(sendUnix(sender, encode(path), [a], path)).toBe(path.length);
      const message = received(receiver);
      expect([text(message), message.descriptors.length]).toEqual([path, 1]);
    }
    expect(sendUnix(sender, encode("x"), [], join(folder, "nobody"))).toBe(-ENOENT);
    expect(sendUnix(sender, encode("x"), [], "@tproxy-nobody")).toBe(-ECONNREFUSED);
    rmSync(folder, { recursive: true });
  });

  test("that no socket can have are -EINVAL", () => {
    for (const path of ["", `/${"x".repeat(107)}`, `@${"x".repeat(108)}`, "/a\0b"]) {
      expect(encodeSockaddrUn(name.view, path)).toBe(-EINVAL);
      expect(sendUnix(1 << 30, encode("x"), [], path)).toBe(-EINVAL);
    }
    expect(encodeSockaddrUn(name.view, `/${"x".repeat(106)}`)).toBe(110);
    expect(encodeSockaddrUn(name.view, `@${"x".repeat(107)}`)).toBe(110);
  });
});

test("the buffers stay where they are, whatever is collected meanwhile", () => {
  const [a, b] = pair();
  const { buffers } = allocated();
  const fd = keep(sys.eventfd(0, 0));
  for (let round = 0; round < 50; round++) {
    expect(sendUnix(a, encode(`round ${round}`), [fd])).toBeGreaterThan(0);
    Bun.gc(true);
    const message = receiveUnix(b) as UnixMessage;
    expect(text(message)).toBe(`round ${round}`);
    for (const each of message.descriptors) sys.close(each);
  }
  expect(allocated().buffers).toBe(buffers);
});
