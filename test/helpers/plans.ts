/**
 * Plans to put in place in two ways: `bun plans.ts print NAME` prints the nft script,
 * `bun plans.ts add NAME` and `remove NAME` do by netlink what it does, in the namespace they are
 * started in.
 */

import type { Port } from "../../ffi/types.ts";
import { RoutingControl } from "../../src/control/routing.ts";
import { parseCidr } from "../../src/net/cidr.ts";
import { parseIntent } from "../../src/routing/intent.ts";
import { makePlan, type Plan } from "../../src/routing/plan.ts";
import { applySteps, undoSteps } from "../../src/routing/steps.ts";
import { renderNft } from "../../src/routing/text/nft.ts";

const networks = (...texts: string[]) =>
  texts.map((text) => {
    const parsed = parseCidr(text);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value;
  });
const range = (from: number, to = from) => ({ from: from as Port, to: to as Port });

const requests: Readonly<Record<string, object>> = {
  "the article's": {},
  "one port, both families": { ports: [range(80)] },
  "one network to TPROXY": { destinations: networks("203.0.113.0/24"), toPort: 50080 },
  "a prefix within a byte": { destinations: networks("172.16.0.0/12", "2001:db8::/33") },
  "lists of everything": {
    destinations: networks("8.8.8.8", "8.8.4.0/24", "2001:4860:4860::8888", "2001:db8::/33"),
    sources: networks("10.0.0.0/8", "192.0.2.0/25", "fd00::/8", "2001:db8:9::/48"),
    ports: [range(80), range(8000, 9000), range(65535)],
    interfaces: ["eth0", "wlan0.100"],
    protocols: ["tcp", "udp"],
    toPort: 50080,
  },
  "another mark, table and priority": {
    ports: [range(1000, 2000)],
    mark: { value: 0x10, mask: 0xf0 },
    table: 1000,
    priority: 5,
  },
  "a whole mark": { families: [6], mark: { value: 7, mask: 0xffffffff } },
};

export const planNames = Object.keys(requests);

function planOf(name: string): Plan {
  const intent = parseIntent(requests[name]);
  if (!intent.ok) throw new Error(intent.error);
  return makePlan(intent.value);
}

if (import.meta.main) {
  const [verb, name = ""] = process.argv.slice(2);
  const plan = planOf(name);
  if (verb === "print") process.stdout.write(renderNft(plan));
  else {
    const control = RoutingControl.open();
    for (const step of (verb === "add" ? applySteps : undoSteps)(plan)) control.perform(step);
    control.close();
  }
}
