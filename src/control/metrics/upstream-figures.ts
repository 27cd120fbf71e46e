/** The figures of the upstreams of a pool, read where they are. */

import type { CheckCounts } from "../../workers/upstream-board.ts";
import type { UpstreamFigures } from "./data.ts";
import { labels } from "./text.ts";

/** The board, as far as it is read (`UpstreamBoard`). */
interface Board {
  sum(slot: number, counter: number): number;
  checkCounts(slot: number): CheckCounts;
}

interface MeasuredAddress {
  readonly slot: number;
  readonly isUp: boolean;
}

/** An upstream of a pool. */
interface MeasuredUpstream {
  readonly settings: { readonly name: string; readonly weight: number; readonly to: unknown };
  readonly admin: "ready" | "drain" | "down";
  /** The value of an administrator; undefined: that of the configuration. */
  readonly weight: number | undefined;
  readonly addresses: ReadonlyMap<string, MeasuredAddress>;
}

/** A pool, as far as it is read (`PoolStates`). */
export interface MeasuredPool {
  readonly pool: { readonly name: string; readonly check?: unknown };
  readonly entries: readonly MeasuredUpstream[];
  readonly board: Board;
  /** Another number once the addresses of upstreams are others. */
  readonly revision: number;
}

/** One address of an upstream; undefined: it has none. */
class AddressFigures implements UpstreamFigures {
  readonly labels: Uint8Array;
  private readonly pool: MeasuredPool;
  private readonly upstream: MeasuredUpstream;
  private readonly address: MeasuredAddress | undefined;

  constructor(
    pool: MeasuredPool,
    upstream: MeasuredUpstream,
    name: string,
    address: MeasuredAddress | undefined,
  ) {
    this.labels = labels({ pool: pool.pool.name, upstream: name });
    this.pool = pool;
    this.upstream = upstream;
    this.address = address;
  }

  get isUp(): boolean {
    const { admin, settings } = this.upstream;
    return admin !== "down" && (this.address?.isUp ?? settings.to === "original");
  }

  get isDraining(): boolean {
    const { admin } = this.upstream;
    return admin === "drain" || (admin === "ready" && this.weight === 0);
  }

  get weight(): number {
    return this.upstream.weight ?? this.upstream.settings.weight;
  }

  get isCounted(): boolean {
    return this.address !== undefined;
  }

  get checks(): CheckCounts | undefined {
    const { address, pool } = this;
    if (address === undefined || pool.pool.check === undefined) return undefined;
    return pool.board.checkCounts(address.slot);
  }

  count(counter: number): number {
    return this.address === undefined ? 0 : this.pool.board.sum(this.address.slot, counter);
  }
}

interface Known {
  readonly revision: number;
  readonly figures: readonly UpstreamFigures[];
}

/** Made once for the addresses of a moment: their labels are most of the work. */
const known = new WeakMap<MeasuredPool, Known>();

/**
 * Figures of each address of each upstream. The first address has the upstream's name, further ones
 * of a name are called by themselves: unless another upstream of the pool is called so.
 */
export function upstreamFigures(pool: MeasuredPool): readonly UpstreamFigures[] {
  const { revision } = pool;
  const before = known.get(pool);
  if (before?.revision === revision) return before.figures;
  const names = new Set(pool.entries.map(({ settings }) => settings.name));
  const figures = pool.entries.flatMap((entry): UpstreamFigures[] => {
    const { name } = entry.settings;
    if (entry.addresses.size === 0) return [new AddressFigures(pool, entry, name, undefined)];
    // Resolvers answer in any order.
    const sorted = [...entry.addresses].toSorted(([a], [b]) => (a < b ? -1 : 1));
    return sorted.map(([text, address], place) => {
      const own = names.has(text) ? `${name}/${text}` : text;
      if (place > 0) names.add(own);
      return new AddressFigures(pool, entry, place === 0 ? name : own, address);
    });
  });
  known.set(pool, { revision, figures });
  return figures;
}
