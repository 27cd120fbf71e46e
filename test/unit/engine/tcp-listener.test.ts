import { expect, test } from "bun:test";
import {
  AF_INET,
  EFD_NONBLOCK,
  EPOLLIN,
  F_SETFL,
  O_NONBLOCK,
  SOCK_STREAM,
} from "../../../ffi/constants.ts";
import { check } from "../../../ffi/errno.ts";
import { sockaddr_storage } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { acceptMsMost, acceptsPerTurn } from "../../../src/engine/limits.ts";
import { EventLoop } from "../../../src/engine/loop.ts";
import { Listener } from "../../../src/engine/tcp-listener.ts";
import { boundSocket, connectTo } from "../../helpers/sockets.ts";

/** A listening socket with `count` connections that wait in its queue; and their other ends. */
function queued(count: number): { fd: Fd; clients: number[] } {
  const fd = boundSocket(SOCK_STREAM) as Fd;
  sys.fcntl(fd, F_SETFL, O_NONBLOCK);
  check(sys.listen(fd, count), "listen");
  const clients = Array.from({ length: count }, () => {
    const client = check(sys.socket(AF_INET, SOCK_STREAM, 0), "socket");
    connectTo(client, fd);
    return client;
  });
  return { fd, clients };
}

test("what waits when a listener is closed for a drain is accepted, more than in one turn", () => {
  const { fd, clients } = queued(acceptsPerTurn + 20);
  let accepted = 0;
  const owner = {
    loop: new EventLoop(),
    peerName: allocate(sockaddr_storage.size),
    accepted: (connection: Fd) => {
      accepted++;
      sys.close(connection);
    },
    acceptFailed: () => {},
  };
  new Listener(owner, fd).closeEmptied();
  expect(accepted).toBe(clients.length);
  for (const each of clients) sys.close(each);
});

test("accepting what costs much leaves others their turn", () => {
  const loop = new EventLoop();
  const { fd, clients } = queued(12);
  const log: string[] = [];
  const owner = {
    loop,
    peerName: allocate(sockaddr_storage.size),
    accepted: (connection: Fd) => {
      log.push("accepted");
      sys.close(connection);
      Bun.sleepSync(acceptMsMost);
      if (log.filter((each) => each === "accepted").length === clients.length) loop.stop();
    },
    acceptFailed: () => {},
  };
  new Listener(owner, fd);
  const other = check(sys.eventfd(1, EFD_NONBLOCK), "eventfd") as Fd;
  loop.add(other, EPOLLIN, { onReady: () => log.push("other") });
  loop.run();
  // One after each that was accepted, but for the last, whatever comes first in a turn.
  expect(log.filter((each) => each === "other").length).toBeGreaterThanOrEqual(clients.length - 1);
  for (const each of [...clients, other, fd]) sys.close(each);
});

test("all listeners of a loop share the time for accepting", () => {
  const loop = new EventLoop();
  const { fd, clients } = queued(2);
  const owner = {
    loop,
    peerName: allocate(sockaddr_storage.size),
    accepted: (connection: Fd) => {
      sys.close(connection);
      Bun.sleepSync(acceptMsMost);
    },
    acceptFailed: () => {},
  };
  expect(loop.budget.acceptMs).toBeGreaterThan(0);
  new Listener(owner, fd).onReady();
  expect(loop.budget.acceptMs).toBe(0);
  for (const each of [...clients, fd]) sys.close(each);
});
