/** Intents of the kernel path, for tests of what is made of them. */

import type { Port } from "../../ffi/types.ts";
import {
  type PathIntent,
  type PathPool,
  type PathService,
  type Selection,
  slotCount,
} from "../../src/capture/kernel-path/intent.ts";
import type { FlowEndpoint } from "../../src/capture/plan/flow-rule.ts";
import { parseAddress } from "../../src/net/address.ts";
import { parseCidr } from "../../src/net/cidr.ts";

const address = (text: string) => {
  const parsed = parseAddress(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
};
const networks = (...texts: string[]) =>
  texts.map((text) => {
    const parsed = parseCidr(text);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value;
  });
const range = (from: number, to = from) => ({ from: from as Port, to: to as Port });

export const endpoint = (text: string, port: number): FlowEndpoint => ({
  address: address(text),
  port: port as Port,
});

/** A pool whose upstreams have the slots in turn; undefined ones leave them empty. */
export function poolOf(family: 4 | 6, ...upstreams: (FlowEndpoint | undefined)[]): PathPool {
  const slots = Array.from({ length: slotCount }, (_, i) => upstreams[i % upstreams.length]);
  const known = upstreams.filter((each) => each !== undefined);
  return { family, upstreams: known, slots };
}

const everything: Selection = {
  ...{ destination: "foreign", sources: [], ports: [], interfaces: [], bypass: [] },
};

/** A service that takes TCP to port 80 of any address in both families. */
export const service: PathService = {
  name: undefined,
  number: 1,
  protocols: ["tcp"],
  selections: [{ ...everything, destination: "any", ports: [range(80)] }],
  local: false,
  guards: { mark: undefined, uids: [], gids: [], cgroups: [] },
  source: { kind: "client" },
  choice: "turn",
  offload: true,
  pools: [poolOf(4, endpoint("192.0.2.9", 8080)), poolOf(6, endpoint("2001:db8::9", 8080))],
  timeouts: { tcpIdle: 7200, tcpConnect: 10, tcpHalfClosed: 60, udpUnreplied: 30, udpReplied: 120 },
};

export const intent: PathIntent = {
  tableName: "tproxyd",
  services: [service],
  sameLink: [],
  offload: [],
  forwards: [4, 6],
  sysctl: false,
  onExit: "open",
  listeners: ["tcp://[::]:80"],
};

const dns: PathService = {
  ...service,
  ...{ number: 2, protocols: ["udp", "tcp"], source: { kind: "self" }, choice: "source" },
  selections: [
    {
      destination: networks("198.51.100.53", "2001:db8:53::/64"),
      ...{ sources: networks("10.0.0.0/8", "fd00::/8"), interfaces: ["lan0", "lan1"] },
      ...{ ports: [range(53), range(5353, 5360)], bypass: networks("198.51.100.0/30") },
    },
  ],
  pools: [
    poolOf(4, endpoint("192.0.2.9", 53), undefined, endpoint("192.0.2.10", 53)),
    poolOf(6, undefined),
  ],
};

const local: PathService = {
  ...service,
  ...{ number: 3, protocols: ["tcp", "udp"], local: true },
  guards: {
    ...{ mark: { value: 2 as never, mask: 2 }, uids: [7, 8], gids: [9], cgroups: [] },
  },
  source: { kind: "addresses", addresses: [address("192.0.2.1"), address("2001:db8::1")] },
  selections: [
    { ...everything, ports: [range(443)], bypass: networks("10.0.0.0/8", "fd00::/8") },
    { ...everything, destination: "own", ports: [range(8443)] },
  ],
};

const long: PathService = {
  ...service,
  selections: [
    {
      ...{ ...everything, ports: [range(80)] },
      destination: Array.from({ length: 99 }, (_, i) => networks(`10.${2 * i}.0.0/16`)).flat(),
      bypass: Array.from({ length: 99 }, (_, i) => networks(`10.${2 * i}.${i}.0/24`)).flat(),
    },
  ],
  pools: [poolOf(4, endpoint("192.0.2.9", 8080))],
};

export const pathIntents: Readonly<Record<string, PathIntent>> = {
  "the kernel path, TCP in both families": intent,
  "the kernel path, UDP and TCP by the client's address": { ...intent, services: [dns] },
  "the kernel path, local with guards, from an address": { ...intent, services: [local] },
  "the kernel path, several services and a shared link": {
    ...{ ...intent, services: [service, dns, local], sameLink: ["p0", "p1"] },
  },
  "the kernel path, long lists": { ...intent, services: [long], forwards: [4] },
};
