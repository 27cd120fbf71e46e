/** `explain accept`: the steps of a packet's way to a listener, in words. Pure. */

import { RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { formatAddress } from "../../net/address.ts";
import { type Finding, ok } from "../checks/finding.ts";
import { describe, judgePath, wayChecks } from "../checks/path.ts";
import { endpointText, findSocket } from "../lookup.ts";
import { bestRoute } from "../policy.ts";
import type { PathFacts } from "../snapshot/path-facts.ts";
import { concludeAt, type Explanation } from "./explanation.ts";

/** How a listener comes to have a connection for an address, or does not. */
export function explainAccept(facts: PathFacts): Explanation {
  const { packet, wanted, sockets } = facts;
  const steps = judgePath(facts, wayChecks).flatMap((step): Finding[] => {
    if (step.check === "firewall") return [step, rulesStep(facts)];
    if (step.check !== "answer") return [step];
    const flag = flagText(findSocket(sockets, wanted)?.transparent, packet.protocol);
    return [{ ...step, text: `${flag}${step.text}` }];
  });
  const to = endpointText(packet.destination.bytes, packet.port);
  const from = `${formatAddress(packet.source)} by ${packet.iif}`;
  return concludeAt(
    steps,
    `a client at ${from} that asks for ${to} is accepted here`,
    `a client at ${from} does not reach ${to} here`,
  );
}

function flagText(transparent: boolean | undefined, protocol: "tcp" | "udp"): string {
  if (protocol === "udp" || transparent !== true) return "";
  return "With IP_TRANSPARENT the route is looked up with FLOWI_FLAG_ANYSRC. ";
}

/** The ip rules in their order, up to the one that decides. */
function rulesStep({ tables, decision, mark, packet }: PathFacts): Finding {
  const tried: string[] = [];
  for (const rule of tables.rules) {
    if (rule === decision?.rule) {
      const route = decision.route;
      const found = route === undefined ? "refuses it" : `finds ${routeText(route, packet)}`;
      tried.push(`${describe(rule)} ${found}`);
      break;
    }
    const isAsked = rule.mark === undefined || ((mark ^ rule.mark) & (rule.mask ?? ~0)) === 0;
    const has = bestRoute(tables.routes, rule.table, packet.destination) !== undefined;
    tried.push(`${describe(rule)} ${isAsked && !has ? "has no route" : "is not for it"}`);
  }
  return ok("ip rules", `With mark 0x${mark.toString(16)}: ${tried.join("; ")}.`);
}

function routeText(
  { type, destination }: NonNullable<ReturnType<typeof bestRoute>>,
  packet: PathFacts["packet"],
): string {
  const bits = destination?.length ?? 0;
  const prefix = bits === 0 ? "default" : `/${bits} of ${formatAddress(packet.destination)}`;
  return type === RTN_LOCAL ? `local ${prefix}` : `a route (${prefix})`;
}
