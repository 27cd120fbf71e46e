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
import { acceptMsPerTurn } from "../../../src/engine/limits.ts";
import { EventLoop } from "../../../src/engine/loop.ts";
import { Listener } from "../../../src/tcp/listener.ts";
import { boundSocket, connectTo } from "../../helpers/sockets.ts";

test("accepting what costs much leaves others their turn", () => {
  const loop = new EventLoop();
  const fd = boundSocket(SOCK_STREAM) as Fd;
  sys.fcntl(fd, F_SETFL, O_NONBLOCK);
  const clients = Array.from({ length: 12 }, () => {
    const client = check(sys.socket(AF_INET, SOCK_STREAM, 0), "socket");
    connectTo(client, fd);
    return client;
  });
  const log: string[] = [];
  const owner = {
    loop,
    peerName: allocate(sockaddr_storage.size),
    accepted: (connection: Fd) => {
      log.push("accepted");
      sys.close(connection);
      Bun.sleepSync(acceptMsPerTurn);
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
