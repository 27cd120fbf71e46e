/**
 * The nat chain that keeps established connections going where new ones are not taken: translation
 * lasts as long as a nat chain with a rule that needs connection tracking is there. Pure.
 */

import { NF_IP_PRI_NAT_DST } from "../../../ffi/netlink/constants.ts";
import type { FirewallChain } from "../plan/firewall-chain.ts";
import type { FirewallRule } from "../plan/firewall-rule.ts";
import { flowMark, type PathPool, type PathService } from "./intent.ts";

/** Of this chain. */
export const drainPriority = NF_IP_PRI_NAT_DST + 10;

/** A service whose connections go on. */
export interface Anchored extends Pick<PathService, "name" | "number"> {
  readonly pools: readonly Pick<PathPool, "family">[];
}

/** The chain. Its rules find the connections, and leave their packets alone. */
export function anchorChain(name: string, services: readonly Anchored[]): FirewallChain {
  const rules = services.flatMap(({ name: service, number, pools }) =>
    pools.map(
      ({ family }): FirewallRule => ({
        ...{ family, purpose: "drain", ...(service === undefined ? {} : { service }) },
        matches: [{ kind: "flow-mark", mark: flowMark(number) }],
        statements: [{ kind: "return" }],
      }),
    ),
  );
  return { name, type: "nat", hook: "prerouting", priority: drainPriority, rules };
}
