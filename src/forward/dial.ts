/** The destination and the source address of a connection to an upstream. Pure. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { SourceChoice } from "../config/syntax.ts";
import { isUnspecified } from "../net/ip.ts";

/** How to connect: undefined `source` leaves the choice to the kernel. */
export interface Dial {
  readonly upstream: SocketAddress;
  readonly source: { readonly address: Uint8Array; readonly port: number } | undefined;
  /** Bytes for the upstream are there: they may go with the SYN (TCP_FASTOPEN_CONNECT). */
  readonly fastOpen?: boolean;
  /** Why the client's address is not used, although `source` is "client". */
  readonly unspoofed?: string;
}

export type ChoiceResult = Dial | { readonly refusal: string };

export interface SourcePolicy {
  readonly source: SourceChoice;
  /** Connect from our own address where the client's cannot be used. */
  readonly fallback: boolean;
  /** Addresses of this host, by their `addressKey`. */
  readonly own: ReadonlySet<number | string>;
  /** Where we listen. */
  readonly listeners: readonly Pick<SocketAddress, "address" | "port">[];
}

/** A key by which addresses are found in a set: a number for IPv4, where text would cost more. */
export function addressKey(address: Uint8Array): number | string {
  if (address.length !== 4) return address.join(".");
  const [a = 0, b = 0, c = 0, d = 0] = address;
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Whose address the upstream sees, as the log has it: `client`, `self` or `address`. */
export function sourceName(choice: Dial, rules: SourcePolicy): string {
  return choice.source === undefined ? "self" : rules.source.kind;
}

/** The length in bytes that an upstream's address must have to keep the source; 0: any. */
export function upstreamFamily({ source }: SourcePolicy, client: SocketAddress): number {
  if (source.kind === "self") return 0;
  return source.kind === "client" ? client.address.length : source.address.length;
}

/** How a connection from `client` is made to `upstream`, or why not. */
export function dialFor(
  rules: SourcePolicy,
  client: SocketAddress,
  upstream: SocketAddress,
): ChoiceResult {
  if (isSelf(rules, upstream)) {
    return { refusal: "it would be carried to this proxy itself" };
  }
  const { source } = rules;
  if (source.kind === "self") return { upstream, source: undefined };
  const wanted =
    source.kind === "address"
      ? { address: source.address, port: 0 }
      : { address: client.address, port: source.keepPort ? client.port : 0 };
  const isClients = source.kind === "client";
  const unspoofed =
    mixedFamilies(wanted.address, upstream) ??
    (isClients ? whyNotSpoofed(rules, client, upstream) : undefined);
  if (unspoofed === undefined) return { upstream, source: wanted };
  // Where a client's address can never work, our own address is used even without the fallback.
  if (unspoofed.always || rules.fallback) {
    return { upstream, source: undefined, unspoofed: unspoofed.reason };
  }
  return { refusal: `${unspoofed.reason}: "source-fallback self" would connect from our own` };
}

interface Unspoofed {
  readonly reason: string;
  /** The client's address can never work: the replies would not reach us. */
  readonly always: boolean;
}

function mixedFamilies(source: Uint8Array, { address }: SocketAddress): Unspoofed | undefined {
  if (source.length === address.length) return undefined;
  const [from, to] = source.length === 4 ? [4, 6] : [6, 4];
  const reason = `an IPv${from} source cannot be used towards an IPv${to} upstream`;
  return { reason, always: false };
}

function whyNotSpoofed(
  rules: SourcePolicy,
  client: SocketAddress,
  upstream: SocketAddress,
): Unspoofed | undefined {
  if (client.scopeId !== upstream.scopeId && client.scopeId !== 0) {
    return { reason: "a link-local source means nothing beyond its link", always: false };
  }
  if (isSame(client.address, upstream.address)) {
    return { reason: "client and upstream have the same address", always: true };
  }
  if (isOwn(rules, client.address)) return { reason: "the client is on this host", always: true };
  return undefined;
}

/** Whether this address leads to a listener of ours. */
export function isSelf(
  rules: Pick<SourcePolicy, "own" | "listeners">,
  { address, port }: SocketAddress,
): boolean {
  for (const listener of rules.listeners) {
    if (listener.port !== port) continue;
    // A listener at 0.0.0.0 has every IPv4 address of this host, one at :: has all addresses.
    const isAny = isUnspecified(listener.address) && listener.address.length >= address.length;
    if (isAny ? isOwn(rules, address) : isSame(listener.address, address)) return true;
  }
  return false;
}

/** Whether an address is one of this host. */
export function isOwn({ own }: Pick<SourcePolicy, "own">, address: Uint8Array): boolean {
  const isLoopback4 = address.length === 4 && address[0] === 127;
  // A connection to 0.0.0.0 or :: reaches this host.
  return isLoopback4 || isUnspecified(address) || own.has(addressKey(address));
}
