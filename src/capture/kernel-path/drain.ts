/** What is in force while services take no new connections, and established ones go on. Pure. */

import type { Plan } from "../plan/plan.ts";
import { type Anchored, anchorChain } from "./anchor.ts";
import type { PathIntent } from "./intent.ts";
import { makePathPlan } from "./plan.ts";

/** Of services that drain. An upstream's INVALID packets are still dropped. */
export function drainPathPlan(intent: PathIntent, tableName: string): Plan {
  const plan = makePathPlan({ ...intent, tableName, onExit: "open" });
  const chains = [
    anchorChain("prerouting", intent.services),
    ...plan.firewall.chains.filter(({ name }) => name === "invalid" || name === "forward"),
  ].map((chain) => ({
    ...chain,
    rules: chain.rules.filter(({ purpose }) => purpose !== "no upstream"),
  }));
  const objects = (plan.firewall.objects ?? []).filter(
    ({ kind }) => kind === "endpoints" || kind === "flowtable",
  );
  return { ...plan, firewall: { name: tableName, sets: [], objects, chains } };
}

/** Of services of another process, of which no more is known. */
export function anchorPlan(services: readonly Anchored[], tableName: string): Plan {
  const chains = [anchorChain("prerouting", services)];
  return {
    ...{ seed: false, families: [4, 6], routes: [], ipRules: [], sysctls: [], backends: [] },
    ...{ firewall: { name: tableName, sets: [], chains }, setsSysctls: false },
  };
}
