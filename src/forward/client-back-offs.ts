/**
 * Upstreams that have failed for one client alone, which rest for that client and for nobody else:
 * so what a client can bring about harms itself. Bounded; the client that came first is forgotten
 * first. Pure: the time is handed in.
 */

import {
  clientBackOffsMax,
  upstreamBackOffMs,
  upstreamBackOffMsMax,
  upstreamFailuresMax,
} from "../engine/limits.ts";

/** A client by its address, of IPv6 by its /64: within that, a host chooses freely. */
export type ClientKey = number | string;

/** The key of an address of 4 or 16 bytes. */
export function clientKey(address: Uint8Array): ClientKey {
  if (address.length !== 4) return address.subarray(0, 8).join(".");
  const [a = 0, b = 0, c = 0, d = 0] = address;
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}

/** What a client has met with at an upstream. */
interface Rest {
  failures: number;
  /** 0: it does not rest. */
  restsUntil: number;
  restMs: number;
}

export class ClientBackOffs<Upstream> {
  private readonly clients = new Map<ClientKey, Map<Upstream, Rest>>();

  /** The upstreams that have failed for a client; undefined: none has. */
  of(client: Uint8Array): ReadonlyMap<Upstream, Readonly<Rest>> | undefined {
    return this.clients.size === 0 ? undefined : this.clients.get(clientKey(client));
  }

  /** An upstream has failed for a client: for how long it rests for that one from now on, or 0. */
  failed(client: Uint8Array, upstream: Upstream, now: number): number {
    const rest = this.restOf(clientKey(client), upstream);
    rest.failures++;
    if (rest.failures < upstreamFailuresMax || rest.restsUntil > now) return 0;
    rest.restMs = Math.min(Math.max(2 * rest.restMs, upstreamBackOffMs), upstreamBackOffMsMax);
    rest.restsUntil = now + rest.restMs;
    return rest.restMs;
  }

  /** An upstream is well, as far as this client is concerned. */
  connected(client: Uint8Array, upstream: Upstream): void {
    if (this.clients.size === 0) return;
    const key = clientKey(client);
    const rests = this.clients.get(key);
    if (rests?.delete(upstream) && rests.size === 0) this.clients.delete(key);
  }

  /** Forgets all. */
  clear(): void {
    this.clients.clear();
  }

  private restOf(key: ClientKey, upstream: Upstream): Rest {
    let rests = this.clients.get(key);
    if (rests === undefined) {
      const [first] = this.clients.keys();
      if (this.clients.size >= clientBackOffsMax && first !== undefined) this.clients.delete(first);
      rests = new Map();
      this.clients.set(key, rests);
    }
    let rest = rests.get(upstream);
    if (rest === undefined) {
      rest = { failures: 0, restsUntil: 0, restMs: 0 };
      rests.set(upstream, rest);
    }
    return rest;
  }
}
