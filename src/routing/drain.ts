/** What stays of a capture while open connections come to their end. Pure. */

import type { Intent } from "./intent.ts";
import { makePlan, type Plan } from "./plan.ts";

/**
 * The Plan that still delivers what belongs to open connections, in a table of another name, so
 * that the next process can have the name of this one.
 *
 * - By TPROXY it captures nothing new: packets for a socket that is bound to a foreign address, one
 *   of a client or of an upstream, are delivered.
 * - With `local` it goes on capturing: what programs of this host send is brought back by nothing
 *   else.
 * - NAT goes on with what it has begun as long as there is a chain of its type.
 */
export function drainPlan(intent: Intent, tableName: string): Plan {
  const plan = makePlan({ ...intent, tableName, replyPath: !intent.redirect });
  if (intent.local && !intent.redirect) return plan;
  const chains = plan.firewall.chains.map((chain) => ({
    ...chain,
    rules: chain.rules.filter(({ purpose }) => purpose === "reply path" || purpose === "errors"),
  }));
  return { ...plan, firewall: { ...plan.firewall, sets: [], chains } };
}
