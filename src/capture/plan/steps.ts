/** The order in which a Plan is applied and removed. */

import type { FirewallTable, IpRule, LocalRoute, Plan } from "./plan.ts";

export type Step = { readonly action: "add" | "remove" } & (
  | { readonly kind: "route"; readonly route: LocalRoute }
  | { readonly kind: "rule"; readonly rule: IpRule }
  | { readonly kind: "firewall"; readonly table: FirewallTable }
);

/**
 * The steps that put a plan in place. The firewall, which alone captures anything, comes last:
 * if a step fails, what was done before it has no effect on any packet.
 */
export function applySteps(plan: Plan): readonly Step[] {
  return [
    ...plan.routes.map((route): Step => ({ action: "add", kind: "route", route })),
    ...plan.ipRules.map((rule): Step => ({ action: "add", kind: "rule", rule })),
    { action: "add", kind: "firewall", table: plan.firewall },
  ];
}

/** The exact inverse: every step undone, in the opposite order, so capture ends first. */
export function undoSteps(plan: Plan): readonly Step[] {
  return applySteps(plan)
    .map((step): Step => ({ ...step, action: step.action === "add" ? "remove" : "add" }))
    .reverse();
}
