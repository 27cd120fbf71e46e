import { expect, test } from "bun:test";
import { IP_LOCAL_PORT_RANGE, IPPROTO_IP, SOCK_STREAM } from "../../../../ffi/constants.ts";
import { describeFailure, EADDRNOTAVAIL, ECONNREFUSED } from "../../../../ffi/errno.ts";
import { allocate } from "../../../../ffi/memory.ts";
import * as sys from "../../../../ffi/sys.ts";
import { portWindow } from "../../../../src/engine/limits.ts";
import { isUpstreamsFault } from "../../../../src/forward/connect-errors.ts";
import { UpstreamSockets } from "../../../../src/forward/tcp/upstream-socket.ts";
import { boundSocket, localAddress, loopback } from "../../../helpers/sockets.ts";

const options = {
  dial: { mark: undefined },
  timeouts: { keepAliveMs: undefined, userMs: undefined },
};

/** The option's value: low port, high port. */
function portRange(fd: number): [low: number, high: number] {
  const value = allocate(4);
  const result = sys.getsockoptBytes(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, value.address, 4);
  // A kernel without it.
  if (result < 0) return [0, portWindow - 1];
  return [value.view.getUint16(0, true), value.view.getUint16(2, true)];
}

test.each([
  ["our own address", undefined],
  ["an address with any port", { address: loopback, port: 0 }],
])("from %s, the port is chosen in a small window", (_title, source) => {
  const listener = boundSocket(SOCK_STREAM);
  const upstream = localAddress(listener);
  const sockets = new UpstreamSockets(options, { warn: () => {}, boundMemory: () => {} });
  const needsPrivilege = source !== undefined && process.getuid?.() !== 0;
  if (!needsPrivilege) {
    const fd = sockets.open({ upstream, source });
    if (typeof fd !== "number") throw new Error(describeFailure(fd));
    const [low, high] = portRange(fd);
    expect(high - low).toBe(portWindow - 1);
    if (low > 0) {
      const { port } = localAddress(fd);
      expect(port >= low && port <= high).toBe(true);
    }
    sys.close(fd);
  }
  sys.close(listener);
});

test("a failure names its own call", () => {
  const sockets = new UpstreamSockets(options, { warn: () => {}, boundMemory: () => {} });
  // The kernel connects no TCP to the broadcast address.
  const upstream = { address: Uint8Array.of(255, 255, 255, 255), port: 9, scopeId: 0 };
  expect(sockets.open({ upstream, source: undefined })).toMatchObject({ call: "connect" });
});

test("a failure is the upstream's only if connect(2) says so", () => {
  expect(isUpstreamsFault({ call: "connect", errno: ECONNREFUSED })).toBe(true);
  expect(isUpstreamsFault({ call: "connect", errno: EADDRNOTAVAIL })).toBe(false);
  expect(isUpstreamsFault({ call: "socket", errno: ECONNREFUSED })).toBe(false);
});
