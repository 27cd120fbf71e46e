/** Notes for the user who applies a Plan. Pure. */

import { formatAddress, isLoopback } from "../../net/address.ts";
import { formatEndpoint } from "../../net/endpoint.ts";
import type { Plan } from "./plan.ts";

/** One line each; none for most plans. */
export function planNotes({ ipRules }: Pick<Plan, "ipRules">): readonly string[] {
  return ipRules.flatMap(({ from, ipProtocol, sourcePort: port }) => {
    if (from === undefined || isLoopback(from)) return [];
    const name = port === undefined ? formatAddress(from) : formatEndpoint({ address: from, port });
    return (
      `the backend ${name} (${ipProtocol ?? "all"}) is an address of this host: its answers to ` +
      "clients that ask it past the proxy are brought back here as well, and do not reach them; " +
      "at a loopback address it has no such clients"
    );
  });
}
