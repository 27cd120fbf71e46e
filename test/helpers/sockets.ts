/** Loopback sockets for tests of the FFI layer, made with the layer's own calls. */

import { AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_STREAM } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { decodeSockaddr, encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";

export const loopback = Uint8Array.of(127, 0, 0, 1);

const name = allocate(sockaddr_storage.size);

/** The address that a socket has. */
export function localAddress(fd: number): SocketAddress {
  check(sys.getsockname(fd, name.address, name.size), "getsockname");
  const address = decodeSockaddr(name.view, 0);
  if (address === undefined) throw new Error("not an IP socket");
  return address;
}

/** A socket bound to 127.0.0.1, any port; a stream one listens. */
export function boundSocket(type: number = SOCK_DGRAM): number {
  const fd = check(sys.socket(AF_INET, type | SOCK_CLOEXEC, 0), "socket");
  check(sys.bind(fd, name.address, encodeSockaddr(name.view, 0, loopback, 0)), "bind");
  if (type === SOCK_STREAM) check(sys.listen(fd, 16), "listen");
  return fd;
}

/** Connects `fd` to the address of `to`. */
export function connectTo(fd: number, to: number): void {
  const { address, port } = localAddress(to);
  check(sys.connect(fd, name.address, encodeSockaddr(name.view, 0, address, port)), "connect");
}

/** Two TCP sockets connected to each other, blocking. */
export function tcpPair(): [client: number, server: number] {
  const listener = boundSocket(SOCK_STREAM);
  const client = check(sys.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  connectTo(client, listener);
  const server = check(sys.accept4(listener, 0, 0, SOCK_CLOEXEC), "accept4");
  sys.close(listener);
  return [client, server];
}

/** Two UDP sockets connected to each other, blocking. */
export function udpPair(): [one: number, other: number] {
  const [one, other] = [boundSocket(), boundSocket()];
  connectTo(one, other);
  connectTo(other, one);
  return [one, other];
}
