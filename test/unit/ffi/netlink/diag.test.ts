/** sock_diag: the codec against the running kernel, on sockets of this very process. */

import { describe, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import fc from "fast-check";
import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../../ffi/constants.ts";
import {
  decodeSocket,
  dumpSockets,
  NETLINK_SOCK_DIAG,
  TCP_CLOSE,
  TCP_LISTEN,
} from "../../../../ffi/netlink/diag.ts";
import { NetlinkSocket } from "../../../../ffi/netlink/socket.ts";
import { WireError } from "../../../../ffi/netlink/wire.ts";

function sockets(family: number, protocol: number, states?: readonly number[]) {
  using netlink = NetlinkSocket.open(NETLINK_SOCK_DIAG);
  return netlink.dump(dumpSockets(family, protocol, states), decodeSocket);
}

describe("sock_diag on the running kernel", () => {
  test("a listener is found with its address, state and options", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const found = sockets(AF_INET, IPPROTO_TCP, [TCP_LISTEN]).find(
      (each) => each.localPort === port,
    );
    server.close();
    expect(found).toMatchObject({
      family: AF_INET,
      state: TCP_LISTEN,
      local: Uint8Array.of(127, 0, 0, 1),
      device: 0,
      transparent: false,
      freebind: false,
      uid: process.getuid?.() ?? 0,
    });
    expect(found?.v6only).toBeUndefined();
  });

  test("an IPv6 datagram socket is found, and says whether it takes IPv4 too", async () => {
    for (const ipv6Only of [true, false]) {
      const socket = createSocket({ type: "udp6", ipv6Only });
      socket.bind(0, "::");
      await once(socket, "listening");
      const { port } = socket.address();
      const found = sockets(AF_INET6, IPPROTO_UDP).find((each) => each.localPort === port);
      socket.close();
      expect(found).toMatchObject({ state: TCP_CLOSE, v6only: ipv6Only });
      expect(found?.local).toEqual(new Uint8Array(16));
    }
  });

  test("only the states that were asked for are listed", () => {
    const listening = sockets(AF_INET, IPPROTO_TCP, [TCP_LISTEN]);
    expect(listening.every(({ state }) => state === TCP_LISTEN)).toBe(true);
  });
});

describe("decodeSocket", () => {
  test("garbage is a WireError", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (body) => {
        try {
          decodeSocket(body);
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }),
    );
  });
});
