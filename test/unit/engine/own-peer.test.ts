/** Sockets that the kernel would connect to themselves. */

import { afterEach, describe, expect, test } from "bun:test";
import { SOCK_DGRAM, SOCK_STREAM } from "../../../ffi/constants.ts";
import { check, ECONNREFUSED, EINPROGRESS } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { bindTo, connectTo, familyOf, localName } from "../../../src/engine/sockets.ts";

const opened: number[] = [];
afterEach(() => {
  for (const fd of opened.splice(0)) sys.close(fd);
});

/** A socket bound to this address and any port, and where it is. */
function bound(type: number, address: Uint8Array) {
  const fd = check(sys.socket(familyOf({ address, port: 0, scopeId: 0 }), type, 0), "socket");
  opened.push(fd);
  check(bindTo(fd, address, 0, 0), "bind");
  return { fd, at: localName(fd as Fd) };
}

const loopbacks = [
  ["IPv4", Uint8Array.of(127, 0, 0, 1)],
  ["IPv6", Uint8Array.from({ length: 16 }, (_, i) => Number(i === 15))],
] as const;

describe.each(loopbacks)("over %s", (_, address) => {
  test.each([
    ["stream", SOCK_STREAM],
    ["datagram", SOCK_DGRAM],
  ] as const)("a %s socket is refused by its own address", (_kind, type) => {
    const { fd, at } = bound(type, address);
    expect(connectTo(fd, at)).toBe(-ECONNREFUSED);
  });

  test("one is connected to another", () => {
    const [one, other] = [bound(SOCK_DGRAM, address), bound(SOCK_DGRAM, address)];
    expect(connectTo(one.fd, other.at)).toBe(0);
    const [client, server] = [bound(SOCK_STREAM, address), bound(SOCK_STREAM, address)];
    check(sys.listen(server.fd, 1), "listen");
    expect([0, -EINPROGRESS]).toContain(connectTo(client.fd, server.at));
  });
});

test("the same port of another address is another", () => {
  const { fd, at } = bound(SOCK_DGRAM, Uint8Array.of(127, 0, 0, 1));
  expect(connectTo(fd, { ...at, address: Uint8Array.of(127, 0, 0, 2) })).toBe(0);
});
