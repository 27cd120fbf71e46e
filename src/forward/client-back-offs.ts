/**
 * Upstreams that have failed for one client alone back off for that client and for nobody else: a
 * client can harm only itself. Bounded; the client that came first is forgotten first. Pure: the
 * time is handed in.
 */

import type { BackOff } from "../config/pool.ts";
import { clientBackOffsMax } from "../engine/limits.ts";

/** A client by its address, of IPv6 by its /64: within that, a host chooses freely. */
export type ClientKey = number | string;

/** The key of an address of 4 or 16 bytes. */
export function clientKey(address: Uint8Array): ClientKey {
  if (address.length !== 4) return address.subarray(0, 8).join(".");
  const [a = 0, b = 0, c = 0, d = 0] = address;
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}

/** How connections of a client to an upstream have failed. */
interface ClientBackOff {
  failures: number;
  /** 0: it does not back off. */
  backsOffUntil: number;
  backOffMs: number;
}

export class ClientBackOffs<Upstream> {
  private readonly rules: BackOff;
  private readonly clients = new Map<ClientKey, Map<Upstream, ClientBackOff>>();

  constructor(rules: BackOff) {
    this.rules = rules;
  }

  /** The upstreams that have failed for a client; undefined: none has. */
  of(client: Uint8Array): ReadonlyMap<Upstream, Readonly<ClientBackOff>> | undefined {
    return this.clients.size === 0 ? undefined : this.clients.get(clientKey(client));
  }

  /** Notes that an upstream has failed for a client. Returns how long it backs off, or 0. */
  failed(client: Uint8Array, upstream: Upstream, now: number): number {
    const { failures, ms, msMax } = this.rules;
    const own = this.entryOf(clientKey(client), upstream);
    own.failures++;
    if (own.failures < failures || own.backsOffUntil > now) return 0;
    own.backOffMs = Math.min(Math.max(2 * own.backOffMs, ms), msMax);
    own.backsOffUntil = now + own.backOffMs;
    return own.backOffMs;
  }

  /** Notes that an upstream works for a client. */
  connected(client: Uint8Array, upstream: Upstream): void {
    if (this.clients.size === 0) return;
    const key = clientKey(client);
    const entries = this.clients.get(key);
    if (entries?.delete(upstream) && entries.size === 0) this.clients.delete(key);
  }

  /** Forgets all. */
  clear(): void {
    this.clients.clear();
  }

  private entryOf(key: ClientKey, upstream: Upstream): ClientBackOff {
    let entries = this.clients.get(key);
    if (entries === undefined) {
      const [first] = this.clients.keys();
      if (this.clients.size >= clientBackOffsMax && first !== undefined) this.clients.delete(first);
      entries = new Map();
      this.clients.set(key, entries);
    }
    let entry = entries.get(upstream);
    if (entry === undefined) {
      entry = { failures: 0, backsOffUntil: 0, backOffMs: 0 };
      entries.set(upstream, entry);
    }
    return entry;
  }
}
