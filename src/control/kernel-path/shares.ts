/** Which upstreams get new connections on the kernel path, and how many of the slots. Pure. */

import { UpstreamState } from "../../workers/upstream-board.ts";
import type { HealthState } from "./health.ts";
import type { SlotMember } from "./slots.ts";

/** An upstream, and what is known of it. */
export interface SharingUpstream extends SlotMember {
  /** It gets connections only while no other one can have them. */
  readonly isBackup: boolean;
  /** Bits of `UpstreamState`: what the administrator and the checks say. */
  readonly standing: number;
  /** What its connections have shown. */
  readonly state: HealthState;
  /** When it failed last, or when checks found it down. */
  readonly failedAt: number;
}

/** So small a part of all weights that it gets one slot, which each member has at least. */
const trialShare = 1 / 1024;

/**
 * The shares of all upstreams. One that is drained or down, or backs off, gets no connections.
 * With none left, the one that failed longest ago gets all connections, if `tries`; otherwise
 * nobody gets any. An upstream that the administrator has taken out is not tried.
 */
export function sharesOf(upstreams: readonly SharingUpstream[], tries: boolean): SlotMember[] {
  const able = upstreams.filter(({ weight, standing }) => {
    return weight > 0 && (standing & ~UpstreamState.checkDown) === 0;
  });
  const live = able.filter(({ standing, state }) => standing === 0 && state !== "backing-off");
  const primary = live.filter(({ isBackup }) => !isBackup);
  const chosen = primary.some(({ state }) => state === "up")
    ? primary
    : [...primary, ...live.filter(({ isBackup }) => isBackup)];
  const [oldest] = able.toSorted((a, b) => a.failedAt - b.failedAt);
  const last = tries && oldest !== undefined ? [oldest] : [];
  const sharing = chosen.length > 0 ? chosen : last;
  const total = sharing.reduce((sum, { weight }) => sum + weight, 0);
  return upstreams.map((each) => {
    const { key, weight, state } = each;
    if (!sharing.includes(each)) return { key, weight: 0 };
    const isOnTrial = state === "trial" && sharing.length > 1;
    return { key, weight: isOnTrial ? Math.min(weight, trialShare * total) : weight };
  });
}
