/** A decoded PROXY protocol header of either version. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { isMulticast, isUnspecified } from "../net/ip.ts";

/** The two ends of the connection that the sender of a header forwards. */
export interface ProxyAddresses {
  readonly source: SocketAddress;
  readonly destination: SocketAddress;
}

/**
 * A header's contents. Without addresses (UNKNOWN, LOCAL, and families that are not IP) those of
 * the connection that the header came on count. The two may differ in family: a sender that has an
 * IPv4 and an IPv6 address writes the first as `::ffff:a.b.c.d`, and it is read as IPv4.
 */
export interface ProxyHeader {
  readonly source: SocketAddress | undefined;
  readonly destination: SocketAddress | undefined;
  /** The transport between the two addresses; version 1 knows TCP alone. */
  readonly protocol: "tcp" | "udp" | undefined;
  readonly passed: PassedOn;
}

/** The fields of a header that go to the next proxy, beside the two ends. */
export interface PassedOn {
  /** The two ends; nobody (UNKNOWN, families that are not IP); or the sender itself (LOCAL). */
  readonly names: "ends" | "nobody" | "sender";
  /** Its TLVs, without those that are of the sender's own hop. */
  readonly tlvs: Uint8Array;
  /** A checksum was among them. */
  readonly isChecked: boolean;
}

/** A header that names the two ends, and has nothing else. */
export const plainHeader: PassedOn = { names: "ends", tlvs: new Uint8Array(0), isChecked: false };

/** The same without ends. */
const unnamedHeader: PassedOn = { ...plainHeader, names: "nobody" };

/** Why the `source` of a header cannot be a client; empty if it can. */
export function sourceFault({ address, port }: SocketAddress): string {
  if (isUnspecified(address)) return "the source is the unspecified address, which nobody has";
  if (isMulticast(address)) return "the source is a multicast or broadcast address";
  return port === 0 ? "the source has port 0" : "";
}

/** Why the `destination` of a header cannot be reached; empty if it can. */
export function destinationFault({ address, port }: SocketAddress): string {
  if (isUnspecified(address)) return "the destination is the unspecified address";
  if (isMulticast(address)) return "the destination is a multicast or broadcast address";
  return port === 0 ? "the destination has port 0" : "";
}

/** The state of a connection's first bytes: part of a header, a whole one, or none. */
export type ProxyDecoding =
  | { readonly kind: "more" }
  /** `length` bytes are the header; those behind them are the connection's data. */
  | { readonly kind: "header"; readonly length: number; readonly header: ProxyHeader }
  | { readonly kind: "error"; readonly error: string };

/** The header is not complete, and right so far. */
export const more: ProxyDecoding = { kind: "more" };

/** Not a header, whatever bytes may follow: one line with the reason. */
export function failed(error: string): ProxyDecoding {
  return { kind: "error", error: `invalid PROXY protocol header: ${error}` };
}

/** A whole header of `length` bytes; without addresses, those of the connection count. */
export function decoded(
  length: number,
  addresses?: ProxyAddresses,
  protocol?: "tcp" | "udp",
  passed: PassedOn = addresses === undefined ? unnamedHeader : plainHeader,
): ProxyDecoding {
  const { source, destination } = addresses ?? {};
  return { kind: "header", length, header: { source, destination, protocol, passed } };
}

/** A socket address of a header: a copy of the bytes, IPv4-mapped ones as the 4 bytes they are. */
export function socketAddress(address: Uint8Array, port: number): SocketAddress {
  return { address: unmapped(address).slice(), port, scopeId: 0 };
}

/**
 * The addresses in the form of a header: both of one family, mapped IPv4 as IPv4. Undefined when
 * one is missing or the families differ.
 */
export function ofOneFamily(
  source: SocketAddress | undefined,
  destination: SocketAddress | undefined,
): ProxyAddresses | undefined {
  if (source === undefined || destination === undefined) return undefined;
  const from = socketAddress(source.address, source.port);
  const to = socketAddress(destination.address, destination.port);
  if (from.address.length !== to.address.length) return undefined;
  return { source: from, destination: to };
}

function unmapped(address: Uint8Array): Uint8Array {
  const isMapped =
    address.length === 16 &&
    address[10] === 0xff &&
    address[11] === 0xff &&
    address.subarray(0, 10).every((byte) => byte === 0);
  return isMapped ? address.subarray(12) : address;
}
