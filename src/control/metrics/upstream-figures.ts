/** The figures of the upstreams of a pool. Pure. */

import type { CheckCounts, UpstreamCounters } from "../../workers/upstream-board.ts";
import type { PoolStatus } from "../server/status.ts";
import type { UpstreamCounts, UpstreamFigures } from "./data.ts";

/**
 * Figures of each address of each upstream. The first address has the upstream's name, further ones
 * of a name are called by themselves: unless another upstream of the pool is called so.
 */
export function upstreamFigures({ name: pool, upstreams }: PoolStatus): UpstreamFigures[] {
  const names = new Set(upstreams.map(({ name }) => name));
  return upstreams.flatMap((upstream): UpstreamFigures[] => {
    const { name, state, admin, weight, addresses } = upstream;
    const isDraining = state === "drained" || admin === "drain";
    const common = { pool, isDraining, weight };
    if (addresses.length === 0) {
      const figures = { ...common, upstream: name, isUp: state !== "down" };
      return [{ ...figures, counters: undefined, checks: undefined }];
    }
    // Resolvers answer in any order.
    const sorted = addresses.toSorted((a, b) => (a.address < b.address ? -1 : 1));
    return sorted.map(({ address, isUp, counters, check }, place) => {
      const own = names.has(address) ? `${name}/${address}` : address;
      if (place > 0) names.add(own);
      return {
        ...{ ...common, upstream: place === 0 ? name : own, isUp: isUp && admin !== "down" },
        counters: countsOf(counters),
        checks: check && checksOf(check),
      };
    });
  });
}

function countsOf(counters: UpstreamCounters): UpstreamCounts {
  const { open, openSessions, connects, sessions } = counters;
  const { refused, timeout, unreachable, reset, local } = counters;
  return {
    ...{ open: open + openSessions, connects: connects + sessions },
    failures: { refused, timeout, unreachable, reset, local },
  };
}

function checksOf({ succeeded, failed, lastMs }: CheckCounts): UpstreamFigures["checks"] {
  const isChecked = succeeded + failed > 0;
  return { results: { ok: succeeded, failed }, lastMs: isChecked ? lastMs : undefined };
}
