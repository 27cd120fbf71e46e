/** Rates of counters: from two statuses, one after the other. Pure. */

import type { AddressCounters, Counters, Status, Upstream } from "./data.ts";

/** In one second. */
export interface Rates {
  /** New connections and sessions. */
  readonly begun: number;
  /** Bytes from clients, and to them. */
  readonly out: number;
  readonly back: number;
}

const NONE: Rates = { begun: 0, out: 0, back: 0 };

/** The amounts that rates are made of. */
type Amounts = Rates;

/** The counters at one time. */
export class RateMeter {
  private amounts = new Map<string, Amounts>();
  private rates = new Map<string, Rates>();
  private time = 0;
  private process = "";

  /** Takes the next status. Of another process, or of an earlier time, there are no rates yet. */
  push(status: Status): void {
    const time = Date.parse(status.time);
    const process = `${status.pid} ${status.start_time}`;
    const seconds = (time - this.time) / 1000;
    const isNext = this.process === process && seconds > 0;
    const amounts = amountsOf(status);
    this.rates = new Map(
      [...amounts].map(([key, now]) => {
        const before = isNext ? this.amounts.get(key) : undefined;
        return [key, before === undefined ? NONE : between(before, now, seconds)];
      }),
    );
    this.amounts = amounts;
    this.time = time;
    this.process = process;
  }

  all(): Rates {
    return this.rates.get("all") ?? NONE;
  }

  service(name: string): Rates {
    return this.rates.get(`service ${name}`) ?? NONE;
  }

  upstream(pool: string, name: string): Rates {
    return this.rates.get(`upstream ${pool} ${name}`) ?? NONE;
  }
}

function between(before: Amounts, now: Amounts, seconds: number): Rates {
  const rate = (name: keyof Amounts) => Math.max(0, now[name] - before[name]) / seconds;
  return { begun: rate("begun"), out: rate("out"), back: rate("back") };
}

function amountsOf({ counters, services, pools }: Status): Map<string, Amounts> {
  const amounts = new Map<string, Amounts>([["all", ofCounters(counters)]]);
  for (const service of services) {
    amounts.set(`service ${service.name}`, ofCounters(service.counters));
  }
  for (const pool of pools) {
    for (const upstream of pool.upstreams) {
      amounts.set(`upstream ${pool.name} ${upstream.name}`, ofUpstream(upstream));
    }
  }
  return amounts;
}

function ofCounters(counters: Counters): Amounts {
  return {
    begun: (counters.accepted ?? 0) + (counters.sessions ?? 0),
    out: counters.client_bytes ?? 0,
    back: counters.upstream_bytes ?? 0,
  };
}

function ofUpstream(upstream: Upstream): Amounts {
  return {
    begun: sumOf(upstream, "connects") + sumOf(upstream, "sessions"),
    out: sumOf(upstream, "client_bytes"),
    back: sumOf(upstream, "upstream_bytes"),
  };
}

/** A counter of all addresses of an upstream together. */
export function sumOf({ addresses }: Upstream, name: keyof AddressCounters): number {
  return addresses.reduce((sum, address) => {
    return sum + (typeof address === "string" ? 0 : (address.counters?.[name] ?? 0));
  }, 0);
}
