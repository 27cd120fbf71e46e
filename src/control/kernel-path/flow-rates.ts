/**
 * How fast connections of the kernel path carry: bytes of two looks, compared. They are forgotten
 * when nobody has looked for some seconds. Pure, but for that.
 */

import type { ConntrackEntry } from "../../../ffi/netlink/conntrack.ts";
import type { Rate } from "../../workers/query.ts";
import { rateStaleMs, rateWindowMs } from "../../workers/scan-limits.ts";
import { amountsOf } from "./flow-rows.ts";

/** What each connection had carried at a time, by its id. */
interface Look {
  readonly at: number;
  readonly amounts: ReadonlyMap<number, Rate>;
}

export class FlowRates {
  private before: Look | undefined;
  private latest: Look | undefined;

  /** Whether the next look gives rates of the last seconds. `now` is on a monotonic clock. */
  isFresh(now: number): boolean {
    return this.latest !== undefined && now - this.latest.at < rateStaleMs;
  }

  /** Looks at what is open. Of two looks within `rateWindowMs` the first counts. */
  measure(entries: readonly ConntrackEntry[], now: number): void {
    const { latest } = this;
    if (latest !== undefined && now - latest.at < rateWindowMs) return;
    const amounts = new Map(entries.map((entry) => [entry.id, amountsOf(entry)]));
    this.before = this.isFresh(now) ? latest : undefined;
    this.latest = { at: now, amounts };
    setTimeout(() => this.forget(now), rateStaleMs).unref();
  }

  /** Bytes in a second between the last two looks; undefined: it was not seen twice. */
  of({ id }: Pick<ConntrackEntry, "id">): Rate | undefined {
    const { before, latest } = this;
    const [from, to] = [before?.amounts.get(id), latest?.amounts.get(id)];
    if (before === undefined || latest === undefined || !from || !to) return undefined;
    const seconds = (latest.at - before.at) / 1000;
    return {
      client: Math.max(0, to.client - from.client) / seconds,
      upstream: Math.max(0, to.upstream - from.upstream) / seconds,
    };
  }

  /** Nobody has looked since `at`. */
  private forget(at: number): void {
    if (this.latest?.at !== at) return;
    this.before = undefined;
    this.latest = undefined;
  }
}
