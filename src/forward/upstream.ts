/** An upstream as one Worker knows it. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { slowStartLeast } from "../engine/limits.ts";
import { hashBytes } from "../net/hash.ts";
import type { PooledAddress } from "../workers/protocol.ts";
import type { ClientKey } from "./client-back-offs.ts";
import { mix } from "./hash.ts";

/** One address of a pool, and what is known of it. Only its pool changes it. */
export interface Upstream {
  readonly address: SocketAddress;
  /** Equal for equal addresses and ports. */
  readonly key: string;
  readonly hash: number;
  /** Its place on the board. */
  readonly slot: number;
  /** It gets connections while no other upstream can have them. */
  isBackup: boolean;
  slowStartMs: number;
  /** Of the board: bits of `UpstreamState`, and its share among the others. */
  state: number;
  weight: number;
  /** When its slow start began, by the loop's clock; -Infinity: it has its whole share. */
  rampFrom: number;
  /** The weight of this moment. */
  share: number;
  /** How much it is behind its share (smooth weighted round-robin). */
  credit: number;
  /** Connections that have it: connecting or connected. */
  active: number;
  /** Failures in a row. */
  failures: number;
  /** It backs off until then; 0: it does not. */
  backsOffUntil: number;
  /** How long it backs off, or backed off last. */
  backOffMs: number;
  lastFailedAt: number;
  /** The connection that tries it after a back-off, 0 for none. */
  probe: number;
  /** Clients among the failures in a row, and failures from our own address. */
  readonly witnesses: Set<ClientKey>;
  ownFailures: number;
  /** When it has last been connected, or has answered; and the first sign of silence after that. */
  lastAnsweredAt: number;
  silentSince: number;
  /** Since when it is down; meaningless while it is not. */
  downSince: number;
}

/** The key of an address of a pool. */
export function upstreamKey({ address, port, scopeId }: SocketAddress): string {
  return `${address.join(".")}:${port}%${scopeId}`;
}

/** Where a connection to `original` goes: an upstream without a port has that of `original`. */
export function targetOf(picked: Upstream | undefined, original: SocketAddress): SocketAddress {
  if (picked === undefined) return original;
  const { address } = picked;
  return address.port === 0 ? { ...address, port: original.port } : address;
}

/** An upstream of which nothing is known; its pool fills in what the board has. */
export function newUpstream(pooled: PooledAddress, key: string): Upstream {
  const { address, slot, isBackup, slowStartMs } = pooled;
  return {
    ...{ address, key, slot, isBackup, slowStartMs },
    hash: mix(hashBytes(address.address), address.port),
    ...{ state: 0, weight: 0, rampFrom: Number.NEGATIVE_INFINITY, share: 0, credit: 0 },
    ...{ active: 0, failures: 0, backsOffUntil: 0, backOffMs: 0, lastFailedAt: 0, probe: 0 },
    ...{ witnesses: new Set(), ownFailures: 0, downSince: 0 },
    lastAnsweredAt: Number.NEGATIVE_INFINITY,
    silentSince: Number.POSITIVE_INFINITY,
  };
}

/** Its weight at `now`: less while it starts slowly. */
export function shareAt(
  { weight, rampFrom, slowStartMs }: Pick<Upstream, "weight" | "rampFrom" | "slowStartMs">,
  now: number,
): number {
  if (now >= rampFrom + slowStartMs) return weight;
  return weight * Math.max(slowStartLeast, (now - rampFrom) / slowStartMs);
}
