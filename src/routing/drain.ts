/** What stays of a capture while open connections come to their end. Pure. */

import type { Intent } from "./intent.ts";
import { makePlan, type Plan } from "./plan.ts";

/**
 * The Plan that captures nothing new, and still delivers what belongs to open connections: packets
 * for a socket that is bound to a foreign address, which is one of a client or of an upstream. NAT
 * keeps what it has begun as long as there is a chain of its type. Undefined where there is none:
 * what programs of this host send is brought back by the rule that captures it.
 */
export function drainPlan(intent: Intent): Plan | undefined {
  if (intent.local && !intent.redirect) return undefined;
  const plan = makePlan({ ...intent, replyPath: !intent.redirect });
  const chains = plan.firewall.chains.map((chain) => ({
    ...chain,
    rules: chain.rules.filter(({ purpose }) => purpose === "reply path" || purpose === "errors"),
  }));
  return { ...plan, firewall: { ...plan.firewall, sets: [], chains } };
}
