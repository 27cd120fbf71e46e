/**
 * Socket addresses in C's form: `sockaddr_in` and `sockaddr_in6` in buffers that the caller owns.
 * Addresses are 4 or 16 bytes in network order, ports are host-order numbers.
 */

import { AF_INET, AF_INET6 } from "./constants.ts";
import { sockaddr_in, sockaddr_in6 } from "./layout.ts";

/** An IP address and port as the kernel reports them. */
export interface SocketAddress {
  /** 4 or 16 bytes, network order. */
  readonly address: Uint8Array;
  /** Host order. */
  readonly port: number;
  /** The interface index of a link-local IPv6 address, otherwise 0. */
  readonly scopeId: number;
}

/**
 * Writes a socket address at `offset` and returns its length. The family is AF_INET for 4 bytes
 * of address and AF_INET6 for 16.
 */
export function encodeSockaddr(
  view: DataView,
  offset: number,
  address: Uint8Array,
  port: number,
  scopeId = 0,
): number {
  if (address.length === 4) {
    view.setUint16(offset + sockaddr_in.sin_family, AF_INET, true);
    view.setUint16(offset + sockaddr_in.sin_port, port, false);
    copyInto(view, offset + sockaddr_in.sin_addr, address);
    view.setUint32(offset + 8, 0);
    view.setUint32(offset + 12, 0);
    return sockaddr_in.size;
  }
  view.setUint16(offset + sockaddr_in6.sin6_family, AF_INET6, true);
  view.setUint16(offset + sockaddr_in6.sin6_port, port, false);
  view.setUint32(offset + sockaddr_in6.sin6_flowinfo, 0);
  copyInto(view, offset + sockaddr_in6.sin6_addr, address);
  view.setUint32(offset + sockaddr_in6.sin6_scope_id, scopeId, true);
  return sockaddr_in6.size;
}

/**
 * Reads the socket address at `offset`, or undefined if its family is neither AF_INET nor
 * AF_INET6. An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, what a dual-stack socket shows of an
 * IPv4 peer) is answered as the 4 bytes of the IPv4 address that it is. The bytes are a copy.
 */
export function decodeSockaddr(view: DataView, offset: number): SocketAddress | undefined {
  const family = view.getUint16(offset, true);
  if (family === AF_INET) {
    return {
      address: copyOut(view, offset + sockaddr_in.sin_addr, 4),
      port: view.getUint16(offset + sockaddr_in.sin_port, false),
      scopeId: 0,
    };
  }
  if (family !== AF_INET6) return undefined;
  const port = view.getUint16(offset + sockaddr_in6.sin6_port, false);
  const at = offset + sockaddr_in6.sin6_addr;
  if (isMapped(view, at)) return { address: copyOut(view, at + 12, 4), port, scopeId: 0 };
  return {
    address: copyOut(view, at, 16),
    port,
    scopeId: view.getUint32(offset + sockaddr_in6.sin6_scope_id, true),
  };
}

/** `::ffff:a.b.c.d` of a 4-byte address: the form of an IPv4 address on an AF_INET6 socket. */
export function mapped(address: Uint8Array): Uint8Array {
  if (address.length === 16) return address;
  const bytes = new Uint8Array(16);
  bytes[10] = 0xff;
  bytes[11] = 0xff;
  bytes.set(address, 12);
  return bytes;
}

function isMapped(view: DataView, at: number): boolean {
  return (
    view.getUint32(at) === 0 && view.getUint32(at + 4) === 0 && view.getUint32(at + 8) === 0xffff
  );
}

function copyInto(view: DataView, at: number, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) view.setUint8(at + i, bytes[i] as number);
}

function copyOut(view: DataView, at: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = view.getUint8(at + i);
  return bytes;
}
