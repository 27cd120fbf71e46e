/** Which sockets get each other's packets, and what doctor says of several programs at one port. */

import { expect, test } from "bun:test";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { type InetSocket, TCP_CLOSE } from "../../../ffi/netlink/diag.ts";
import { checkSharing } from "../../../src/diagnose/checks/listener.ts";
import { overlaps } from "../../../src/diagnose/lookup.ts";

const none = new Uint8Array(4);
const one = Uint8Array.of(10, 0, 0, 1);
const other = Uint8Array.of(10, 0, 0, 2);
const none6 = new Uint8Array(16);
const one6 = Uint8Array.from({ length: 16 }, (_, i) => i);

const socket = (local: Uint8Array, inode: number, v6only?: boolean): InetSocket => ({
  family: local.length === 4 ? AF_INET : AF_INET6,
  state: TCP_CLOSE,
  local,
  localPort: 53,
  remote: new Uint8Array(local.length),
  remotePort: 0,
  device: 0,
  uid: 0,
  inode,
  ...(v6only === undefined ? {} : { v6only }),
});

test("sockets overlap where there are packets for both", () => {
  for (const [a, b, expected] of [
    [socket(none, 1), socket(one, 2), true],
    [socket(one, 1), socket(one, 2), true],
    [socket(one, 1), socket(other, 2), false],
    [socket(none6, 1, false), socket(one, 2), true],
    [socket(none6, 1, true), socket(one, 2), false],
    [socket(none6, 1, true), socket(none, 2), false],
    [socket(none6, 1, true), socket(one6, 2), true],
    [socket(none, 1), socket(one6, 2), false],
    [socket(none, 1), socket(none6, 2, false), true],
  ] as const) {
    expect([a, b, overlaps(a, b), overlaps(b, a)]).toEqual([a, b, expected, expected]);
  }
});

test("doctor names the programs that share a port, and not the sockets of one", () => {
  const expected = { protocol: "udp", address: undefined, port: 53 } as const;
  const proxy = { pid: 7, name: "tproxy" };
  const holders = new Map([
    [1, proxy],
    [2, proxy],
    [3, { pid: 8, name: "unbound" }],
    [4, { pid: 9, name: "resolver" }],
  ]);
  const own = [socket(one, 1), socket(one, 2)];
  const elsewhere = socket(other, 4);
  expect(checkSharing([...own, elsewhere], expected, holders)).toEqual([]);
  // Who has it is not known.
  expect(checkSharing([...own, socket(none, 99)], expected, holders)).toEqual([]);
  const [finding] = checkSharing([...own, socket(one, 3), elsewhere], expected, holders);
  expect(finding?.severity).toBe("warning");
  expect(finding?.text).toEndWith(
    "tproxy (pid 7) on 10.0.0.1:53 and unbound (pid 8) on 10.0.0.1:53.",
  );
});
