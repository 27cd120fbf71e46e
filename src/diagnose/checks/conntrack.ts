/** The check of connection tracking: how full its table is. Pure: facts in, a finding out. */

import type { ConntrackFacts } from "../snapshot/conntrack-facts.ts";
import { type Finding, ok, warning } from "./finding.ts";

/** From here on a full table is near. */
const fillWarned = 0.75;
/** Each namespace has its own count, but the first one alone may change the limit. */
const repairFactor = 2;

/** How full the table is; a table that nobody uses is fine. */
export function checkConntrack(facts: ConntrackFacts | undefined): Finding {
  const check = "conntrack";
  if (facts === undefined) return ok(check, "It is not in use.");
  const { entries, max, dropped = 0 } = facts;
  const percent = Math.floor((100 * entries) / Math.max(1, max));
  const text = `${entries} of ${max} entries are used (${percent} %)${rateText(facts)}.`;
  const repair = `sysctl -w net.netfilter.nf_conntrack_max=${repairFactor * max}`;
  if (entries >= fillWarned * max) {
    const why = "When it is full, new connections of this host and of those behind it are dropped.";
    return warning(check, `${text} ${why}`, repair);
  }
  if (dropped > 0) {
    const why = `${dropped} packets were dropped because it had no place for them.`;
    return warning(check, `${text} ${why}`, repair);
  }
  return ok(check, text);
}

/** The rate that fills the table with connections that are closed and still remembered. */
function rateText({ max, timeWaitS }: ConntrackFacts): string {
  if (timeWaitS === undefined || timeWaitS < 1) return "";
  const rate = Math.floor(max / timeWaitS);
  return `: enough for ${rate} TCP connections a second, each remembered for ${timeWaitS} s`;
}
