/**
 * Names whose addresses are looked up again when they may have changed.
 *
 * The addresses come from c-ares, which reads /etc/hosts, /etc/resolv.conf and the order of both in
 * nsswitch.conf: musl's getaddrinfo(3), which is in the static executable, drops REFUSED answers
 * and waits. It tells no time to live, so the DNS is asked for that alone, and a name that it does
 * not know is looked up after a fixed time.
 */

import { Resolver } from "node:dns/promises";
import { dns } from "bun";
import {
  nameRefreshMs,
  nameRefreshMsMax,
  nameRefreshMsMin,
  nameRetryMs,
} from "../engine/limits.ts";
import { type Address, formatAddress, parseAddress } from "../net/address.ts";

/** What is known of a name: undefined TTL where the DNS does not know it. */
export interface Answer {
  /** Empty: it has none, or nobody answered. */
  readonly addresses: readonly Address[];
  readonly ttlSeconds: number | undefined;
}

/** What a watched name needs around it; injected, so that tests have their own time and DNS. */
export interface NameEdges {
  readonly resolve: (name: string) => Promise<Answer>;
  /** Calls `callback` after `ms`; answers how to call that off. */
  readonly after: (ms: number, callback: () => void) => () => void;
}

/** What happens to a watched name. */
export interface NameListener {
  /** It has other addresses than before. */
  changed(): void;
  /** A line about it, said once for each time that it begins or ceases to fail. */
  say(line: string): void;
}

export class WatchedName {
  readonly name: string;
  /** In an order that does not depend on the resolver's. */
  addresses: readonly Address[] = [];
  private readonly edges: NameEdges;
  private listener: NameListener | undefined;
  private ttlSeconds: number | undefined;
  private failing = false;
  private cancel: () => void = () => {};

  constructor(name: string, edges: NameEdges = systemEdges) {
    this.name = name;
    this.edges = edges;
  }

  /** Looks it up for the first time; whether it has an address. */
  async start(): Promise<boolean> {
    const answer = await this.edges.resolve(this.name);
    this.addresses = sorted(answer.addresses);
    this.ttlSeconds = answer.ttlSeconds;
    return this.addresses.length > 0;
  }

  /** Looks it up again and again from now on. */
  watch(listener: NameListener): void {
    this.listener = listener;
    this.schedule(refreshDelayMs(this.ttlSeconds));
  }

  /** Ends that. */
  close(): void {
    this.listener = undefined;
    this.cancel();
  }

  private schedule(delayMs: number): void {
    this.cancel = this.edges.after(delayMs, () => void this.refresh());
  }

  private async refresh(): Promise<void> {
    const answer = await this.edges.resolve(this.name);
    const { listener } = this;
    if (listener === undefined) return;
    if (answer.addresses.length === 0) {
      if (!this.failing) {
        listener.say(`the name "${this.name}" is not found any more: its old addresses stay`);
      }
      this.failing = true;
      return this.schedule(nameRetryMs);
    }
    if (this.failing) listener.say(`the name "${this.name}" is found again`);
    this.failing = false;
    const before = this.addresses.map(formatAddress).join();
    this.addresses = sorted(answer.addresses);
    if (this.addresses.map(formatAddress).join() !== before) listener.changed();
    this.schedule(refreshDelayMs(answer.ttlSeconds));
  }
}

/** When a name is looked up again. */
function refreshDelayMs(ttlSeconds: number | undefined): number {
  if (ttlSeconds === undefined) return nameRefreshMs;
  return Math.min(Math.max(ttlSeconds * 1000, nameRefreshMsMin), nameRefreshMsMax);
}

function sorted(addresses: readonly Address[]): readonly Address[] {
  const unique = new Map(addresses.map((address) => [formatAddress(address), address]));
  return [...unique.keys()].toSorted().map((key) => unique.get(key) as Address);
}

const systemEdges: NameEdges = {
  resolve: async (name) => {
    const [addresses, ttlSeconds] = await Promise.all([addressesOf(name), ttlOf(name)]);
    return { addresses, ttlSeconds };
  },
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
};

async function addressesOf(name: string): Promise<readonly Address[]> {
  try {
    const found = await dns.lookup(name, { backend: "c-ares" });
    return found.flatMap(({ address }) => {
      const parsed = parseAddress(address, { zone: true });
      return parsed.ok ? [parsed.value] : [];
    });
  } catch {
    return [];
  }
}

/** The least time to live of its records; a resolver of its own reads resolv.conf anew. */
async function ttlOf(name: string): Promise<number | undefined> {
  const resolver = new Resolver();
  const options = { ttl: true } as const;
  const answers = await Promise.allSettled([
    resolver.resolve4(name, options),
    resolver.resolve6(name, options),
  ]);
  const ttls = answers.flatMap((answer) =>
    answer.status === "fulfilled" ? answer.value.map(({ ttl }) => ttl) : [],
  );
  return ttls.length === 0 ? undefined : Math.min(...ttls);
}
