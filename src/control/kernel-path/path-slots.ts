/** The slots of a service on the kernel path, by its upstreams and what is known of them. Pure. */

import {
  endpointKey,
  hashedSlotCount,
  type PathPool,
  slotCount,
} from "../../capture/kernel-path/intent.ts";
import type { FlowEndpoint } from "../../capture/plan/flow-rule.ts";
import type { Pool } from "../../config/pool.ts";
import { mix } from "../../forward/hash.ts";
import type { Family } from "../../net/address.ts";
import { hashBytes } from "../../net/hash.ts";
import type { PathHealth } from "./health.ts";
import { sharesOf } from "./shares.ts";
import {
  assignSlots,
  hashedSlots,
  leastConnectionWeights,
  type SlotMember,
  type Slots,
} from "./slots.ts";

/** An upstream, and its share of new connections. */
export interface PathUpstream extends FlowEndpoint {
  readonly weight: number;
  /** It gets connections only while no other one can have them. */
  readonly isBackup: boolean;
  /** Bits of `UpstreamState`. */
  readonly standing: number;
  /** Since when checks find it down, by `performance.now()`; -Infinity: they do not. */
  readonly downSince: number;
  /** Where its counters are on the board of upstreams; negative: nowhere. */
  readonly slot: number;
  /** Its weight still rises. */
  readonly isRising: boolean;
}

/** What upstreams carry now, by `endpointKey`, and how many connections are to come soon. */
export interface PathLoad {
  readonly open: ReadonlyMap<string, number>;
  readonly expected: number;
}

export class PathSlots {
  private readonly pool: Pick<Pool, "balance" | "whenAllDown">;
  /** So that as few slots as possible change. */
  private readonly previous: Map<Family, Slots>;

  /** `previous`: what slots lead to already. */
  constructor(
    pool: Pick<Pool, "balance" | "whenAllDown">,
    previous: ReadonlyMap<Family, Slots> = new Map(),
  ) {
    this.pool = pool;
    this.previous = new Map(previous);
  }

  /** The upstream of each slot for clients of a family. */
  assign(
    family: Family,
    upstreams: readonly PathUpstream[],
    health?: Pick<PathHealth, "state" | "failedAt">,
    load?: PathLoad,
  ): PathPool {
    const byKey = new Map(
      upstreams
        .filter(({ address }) => address.family === family)
        .map((each) => [endpointKey(each), each]),
    );
    const members = [...byKey].map(([key, { weight, isBackup, standing, downSince }]) => ({
      ...{ key, weight, isBackup, standing, state: health?.state(key) ?? "up" },
      failedAt: Math.max(health?.failedAt(key) ?? Number.NEGATIVE_INFINITY, downSince),
    }));
    const shares = sharesOf(members, this.pool.whenAllDown === "try");
    const keys = this.slots(family, shares, byKey, load);
    this.previous.set(family, keys);
    const slots = keys.map((key) => {
      const upstream = key === undefined ? undefined : byKey.get(key);
      return upstream && { address: upstream.address, port: upstream.port };
    });
    const all = [...byKey.values()].map(({ address, port }) => ({ address, port }));
    return { family, upstreams: all, slots };
  }

  private slots(
    family: Family,
    shares: readonly SlotMember[],
    byKey: ReadonlyMap<string, PathUpstream>,
    load: PathLoad | undefined,
  ): Slots {
    const { balance } = this.pool;
    if (balance === "source-hash") {
      const hashed = shares.map((each) => ({ ...each, hash: hashOf(byKey.get(each.key)) }));
      return hashedSlots(hashed, hashedSlotCount);
    }
    const counts = balance === "least-connections" ? load : undefined;
    const weighed =
      counts === undefined
        ? shares
        : leastConnectionWeights(
            shares.map((each) => ({ ...each, open: counts.open.get(each.key) ?? 0 })),
            counts.expected,
          );
    return assignSlots(weighed, slotCount, this.previous.get(family));
  }
}

/** As the relay's `UpstreamPool` has it. */
function hashOf(upstream: PathUpstream | undefined): number {
  return upstream === undefined ? 0 : mix(hashBytes(upstream.address.bytes), upstream.port);
}
