/**
 * Plans to put in place in two ways: `bun plans.ts print NAME` prints the nft script,
 * `bun plans.ts add NAME` and `remove NAME` do by netlink what it does, in the namespace they are
 * started in, and `check NAME` prints how that differs.
 */

import type { Port } from "../../ffi/types.ts";
import { makePathPlan } from "../../src/capture/kernel-path/plan.ts";
import { readCurrentState } from "../../src/capture/live/current-state.ts";
import { partsOf } from "../../src/capture/live/desired-state.ts";
import { compare } from "../../src/capture/live/differences.ts";
import { RoutingControl } from "../../src/capture/live/execute.ts";
import { interfaceIndex, openKernel } from "../../src/capture/live/kernel.ts";
import { parseIntent } from "../../src/capture/plan/intent.ts";
import { makePlan, type Plan } from "../../src/capture/plan/plan.ts";
import { applySteps, undoSteps } from "../../src/capture/plan/steps.ts";
import { renderNft } from "../../src/capture/render/nft.ts";
import { parseCidr } from "../../src/net/cidr.ts";
import { pathIntents } from "./path-plans.ts";

const networks = (...texts: string[]) =>
  texts.map((text) => {
    const parsed = parseCidr(text);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value;
  });
/** 99 networks that are mostly neighbours. */
const many = (text: (i: number) => string) =>
  Array.from({ length: 99 }, (_, i) => networks(text(i + (i > 50 ? 1 : 0)))).flat();
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
  "what is private bypassed, and neighbours": {
    bypass: networks("192.0.2.0/25", "192.0.2.128/25", "198.51.100.1", "198.51.100.2"),
    bypassPrivate: true,
    ports: [range(80)],
  },
  "one network bypassed": { bypass: networks("192.0.2.4/30", "2001:db8::/32") },
  "what is local, by TPROXY, with guards": {
    local: true,
    guardMark: { value: 2, mask: 2 },
    guardUids: [0, 65534],
    guardGids: [1000],
    protocols: ["tcp", "udp"],
    interfaces: ["eth0"],
    toPort: 50080,
  },
  "what is local, by the mark alone, with a whole guard mark": {
    local: true,
    guardMark: { value: 2, mask: 0xffffffff },
    destinations: networks("203.0.113.0/24", "198.51.100.0/24"),
  },
  "the reply path": { replyPath: true, protocols: ["tcp", "udp"], ports: [range(53)] },
  "the reply path, beside several ports": {
    replyPath: true,
    protocols: ["tcp", "udp"],
    ports: [range(53), range(1000, 2000)],
    toPort: 50080,
  },
  "the reply path, beside a range": {
    replyPath: true,
    protocols: ["udp"],
    ports: [range(1000, 2000)],
  },
  "TPROXY to an address": {
    ports: [range(80)],
    toPort: 50080,
    toAddresses: [...networks("127.0.0.1", "::1")].map(({ family, bytes }) => ({ family, bytes })),
  },
  "by NAT, local too": {
    redirect: true,
    local: true,
    guardUids: [7],
    toPort: 50080,
    ports: [range(80), range(443)],
  },
  "long lists": {
    destinations: [
      ...many((i) => `10.${i}.0.0/16`),
      ...many((i) => `2001:db8:${i.toString(16)}::/48`),
    ],
    sources: [...many((i) => `192.0.2.${2 * i}`), ...networks("::/0")],
    bypass: many((i) => `10.${i}.${i}.128/25`),
    protocols: ["tcp", "udp"],
    tableName: "tproxyd-long",
  },
};

export const planNames = [...Object.keys(requests), ...Object.keys(pathIntents)];

function planOf(name: string): Plan {
  const path = pathIntents[name];
  if (path !== undefined) return makePathPlan(path);
  const intent = parseIntent(requests[name]);
  if (!intent.ok) throw new Error(intent.issue.code);
  return makePlan(intent.value);
}

function addPath(plan: Plan): void {
  const kernel = openKernel();
  kernel.netfilter.batch(partsOf(plan, () => 0).firewallMessages);
  kernel.close();
}

/** Prints how the system differs from the plan. */
function check(plan: Plan): void {
  const kernel = openKernel();
  const parts = partsOf(plan, (device) => interfaceIndex(kernel, device));
  const tables = plan.ipRules.map(({ table }) => table);
  const live = readCurrentState(kernel, { tables, tag: 116, name: plan.firewall.name });
  for (const { kind, what } of compare(parts, live, undefined))
    process.stdout.write(`${kind} ${what}\n`);
  kernel.close();
}

if (import.meta.main) {
  const [verb, name = ""] = process.argv.slice(2);
  const plan = planOf(name);
  if (verb === "print") process.stdout.write(renderNft(plan));
  else if (verb === "check") check(plan);
  // Without counters, as the script has it: with one between, nft lists a rule in another way.
  else if (verb === "add" && plan.firewall.objects !== undefined) addPath(plan);
  else {
    const control = RoutingControl.open();
    for (const step of (verb === "add" ? applySteps : undoSteps)(plan)) control.perform(step);
    control.close();
  }
}
