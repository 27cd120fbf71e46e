/** The part of a capture that stays until the open connections have ended. Pure. */

import type { FirewallChain } from "./firewall-chain.ts";
import type { Intent } from "./intent.ts";
import { jointPlan, type ServiceIntent } from "./joint-plan.ts";
import { type FirewallRule, makePlan, type Plan } from "./plan.ts";

/**
 * The Plan that still delivers what belongs to open connections, in a table of another name, so
 * that the next process can have the name of this one.
 *
 * - By TPROXY it captures nothing new: packets for a socket that is bound to a foreign address, one
 *   of a client or of an upstream, are delivered.
 * - With `local` it goes on capturing: what programs of this host send is brought back by nothing
 *   else.
 * - NAT goes on with what it has begun for as long as a chain of its type and a rule that needs
 *   connection tracking are there; without the rule the kernel stops tracking.
 */
export function drainPlan(intents: readonly ServiceIntent[], tableName: string): Plan {
  const drained = intents.map(({ service, intent }) => {
    return { service, intent: { ...intent, tableName, replyPath: !intent.redirect } };
  });
  return jointPlan(drained, deliveringPlan);
}

function deliveringPlan(intent: Intent): Plan {
  const plan = makePlan(intent);
  if (intent.local && !intent.redirect) return plan;
  const chains = plan.firewall.chains.map((chain) => ({
    ...chain,
    rules: intent.redirect ? trackingRules(intent) : deliveringRules(chain),
  }));
  return { ...plan, firewall: { ...plan.firewall, sets: [], chains } };
}

function deliveringRules({ rules }: FirewallChain): readonly FirewallRule[] {
  return rules.filter(({ purpose }) => purpose === "reply path" || purpose === "errors");
}

/** They do nothing: a rule that reads a connection's direction keeps the tracking alive. */
function trackingRules({ families }: Intent): readonly FirewallRule[] {
  return families.map((family) => ({
    family,
    purpose: "drain",
    matches: [{ kind: "reply" }],
    statements: [{ kind: "return" }],
  }));
}
