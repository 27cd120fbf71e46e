/** The interface that packets should arrive by. Pure. */

import type { PathFacts } from "../snapshot/path-facts.ts";
import { type Finding, failure, warning } from "./finding.ts";

/** Whether packets can arrive by it under its own name; no finding if so. */
export function checkInterface(facts: PathFacts): Finding | undefined {
  const { packet, link, master, names } = facts;
  const { iif } = packet;
  if (link === undefined) {
    const known = [...names.values()].join(", ");
    const text = `There is no interface ${iif} here: nothing comes in by it. There are ${known}.`;
    return warning("interface", text, "ip link show");
  }
  if (master !== undefined) {
    const text =
      `${iif} is a port of the ${master.kind} ${master.name}: what arrives there comes in by ` +
      `${master.name}, so rules for ${iif} do not match it.`;
    return failure("interface", text, `capture what comes in by ${master.name} instead of ${iif}`);
  }
  if (link.up) return undefined;
  return warning("interface", `${iif} is down: nothing comes in by it.`, `ip link set ${iif} up`);
}
