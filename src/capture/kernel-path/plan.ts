/**
 * The Plan of the kernel path: one firewall table that translates the destination of a service's
 * connections to the upstream of a slot. Pure. It needs no ip rule, no route and no listener.
 *
 * - `prerouting` and `output` (nat) see the first packet of a connection: they mark it, give it
 *   time-outs and translate it. A packet for which no slot has an upstream is rejected.
 * - `invalid` (filter) drops what belongs to no connection: of an upstream it would leave with the
 *   upstream's address, and to a service it would reach somebody who knows nothing of it.
 * - `postrouting` (nat) decides which address the upstream sees.
 * - `retry` (filter) drops the reset of an upstream that refuses a connection, and errors of ICMP
 *   about one that cannot be reached, while there are others: the client sends its SYN again, which
 *   gets another upstream.
 * - `forward` (filter) hands flows to the flowtable.
 */

import { NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC } from "../../../ffi/netlink/constants.ts";
import type { Family } from "../../net/address.ts";
import type { FirewallChain } from "../plan/firewall-chain.ts";
import type { FirewallRule, Match, Purpose, Statement } from "../plan/firewall-rule.ts";
import type { FlowObject } from "../plan/flow-rule.ts";
import type { Protocol } from "../plan/intent.ts";
import type { FirewallTable, Plan, Sysctl } from "../plan/plan.ts";
import { anchorChain } from "./anchor.ts";
import { closedTable } from "./closed-table.ts";
import { encodeIdentity } from "./identity.ts";
import { flowMark, type PathIntent, type PathService, type Selection } from "./intent.ts";
import {
  endpointsName,
  hasRetries,
  mapName,
  objectsOf,
  retriedName,
  timeoutName,
} from "./objects.ts";
import { SelectionSets } from "./selections.ts";

/** The name of the flowtable of a table. */
export const flowtableName = "ft";

/** Of the nat chain whose rules ask for the services' marks. */
export const sourcePriority = NF_IP_PRI_NAT_SRC - 1;

/** Turns an intent into what the kernel needs for it. Pure: the same intent, the same plan. */
export function makePathPlan(intent: PathIntent): Plan {
  const families = ([4, 6] as const).filter((family) =>
    intent.services.some(({ pools }) => pools.some((pool) => pool.family === family)),
  );
  return {
    seed: false,
    families,
    routes: [],
    ipRules: [],
    ...tablesOf(intent),
    sysctls: [...intent.forwards.map(forwarding), ...counting],
    setsSysctls: intent.sysctl,
    backends: [],
  };
}

/** The table, and the one that stays where new connections are refused after the end. */
function tablesOf(intent: PathIntent): Pick<Plan, "firewall" | "behind"> {
  const table = pathTable(intent);
  const { onExit, listeners } = intent;
  if (onExit === "open") return { firewall: table };
  const firewall = { ...table, userData: encodeIdentity(table, listeners, onExit) };
  if (onExit === "keep") return { firewall };
  return {
    firewall,
    behind: {
      ...closedTable(table, anchorChain("anchor", intent.services)),
      userData: firewall.userData,
    },
  };
}

/** What the log and the tables have of connections beside their ends. */
const counting: readonly Sysctl[] = [
  {
    ...{ name: "net/netfilter/nf_conntrack_acct", value: "1" },
    reason: "Needed to count bytes and packets of connections.",
  },
  {
    ...{ name: "net/netfilter/nf_conntrack_timestamp", value: "1" },
    reason: "Needed to know how old connections are.",
  },
];

/** The setting that lets this host forward packets of a family. */
function forwarding(family: Family): Sysctl {
  const name = family === 4 ? "net/ipv4/ip_forward" : "net/ipv6/conf/all/forwarding";
  const reason =
    family === 4
      ? "Needed to forward packets to an upstream on another host."
      : "Needed to forward packets to an upstream on another host. An interface then ignores " +
        "router advertisements unless its accept_ra is 2.";
  return { name, value: "1", reason };
}

function pathTable(intent: PathIntent): FirewallTable {
  const sets = new SelectionSets();
  const { services } = intent;
  const own = (service: PathService) => service.local || hasOwn(service);
  const chains: FirewallChain[] = [
    natChain("prerouting", "prerouting", NF_IP_PRI_NAT_DST, services.flatMap(incoming(sets))),
    natChain("output", "output", NF_IP_PRI_NAT_DST, services.filter(own).flatMap(outgoing(sets))),
    {
      ...{ name: "invalid", type: "filter", hook: "prerouting", priority: NF_IP_PRI_NAT_DST + 1 },
      rules: services.flatMap(invalid(sets)),
    },
    natChain(
      "postrouting",
      "postrouting",
      sourcePriority,
      services.flatMap((service) => sourceRules(service, intent)),
    ),
    {
      ...{ name: "retry", type: "filter", hook: "postrouting", priority: 0 },
      rules: services.filter(hasRetries).flatMap(retryRules),
    },
    {
      ...{ name: "forward", type: "filter", hook: "forward", priority: 0 },
      rules: intent.offload.length === 0 ? [] : services.flatMap(offloadRules),
    },
  ];
  const objects = services.flatMap(objectsOf);
  const flowtable: FlowObject[] =
    intent.offload.length === 0
      ? []
      : [{ kind: "flowtable", name: flowtableName, devices: intent.offload }];
  return {
    name: intent.tableName,
    sets: sets.all,
    objects: [...objects, ...flowtable],
    chains: chains.filter(({ rules }) => rules.length > 0),
  };
}

function natChain(
  name: string,
  hook: FirewallChain["hook"],
  priority: number,
  rules: readonly FirewallRule[],
): FirewallChain {
  return { name, type: "nat", hook, priority, rules };
}

function hasOwn({ selections }: PathService): boolean {
  return selections.some(takesOwn);
}

function takesOwn({ destination }: Selection): boolean {
  return destination === "own" || destination === "any";
}

function rule(
  family: Family,
  service: Pick<PathService, "name"> | undefined,
  purpose: Purpose,
  matches: readonly Match[],
  statements: readonly Statement[],
): FirewallRule {
  const name = service?.name;
  return { family, purpose, ...(name === undefined ? {} : { service: name }), matches, statements };
}

/** Every combination of family, protocol and selection that a service takes. */
function combinations(
  { pools, protocols, selections }: PathService,
  sets: SelectionSets,
): { family: Family; protocol: Protocol; selection: Selection; where: readonly Match[] }[] {
  return pools.flatMap(({ family }) =>
    selections.flatMap((selection) => {
      const where = sets.selection(selection, family);
      if (where === undefined) return [];
      return protocols.map((protocol) => ({ family, protocol, selection, where }));
    }),
  );
}

function incoming(sets: SelectionSets) {
  return (service: PathService): FirewallRule[] =>
    combinations(service, sets).flatMap(({ family, protocol, selection, where }) => {
      const { interfaces } = selection;
      const from: Match[] =
        interfaces.length === 0 ? [] : [{ kind: "interface", names: interfaces }];
      const to: Match[] = [{ kind: "protocol", protocol }, ...portsOf(selection)];
      return toUpstream(service, family, protocol, [...from, ...where], to);
    });
}

/**
 * Programs of this host: with `local` all that is taken of others, and always what is sent to this
 * host's own addresses, as a listener there would have it. 127.0.0.1 and ::1 cannot be left.
 */
function outgoing(sets: SelectionSets) {
  return (service: PathService): FirewallRule[] =>
    combinations(service.local ? service : ownOnly(service), sets).flatMap(
      ({ family, protocol, selection, where }) => {
        const guards = guardMatches(service);
        const to: Match[] = [{ kind: "protocol", protocol }, ...portsOf(selection)];
        const matches = [...where, exceptLoopback(family), ...guards];
        return toUpstream(service, family, protocol, matches, to);
      },
    );
}

/** The service for what is sent to this host's own addresses alone. */
function ownOnly(service: PathService): PathService {
  const selections = service.selections
    .filter(takesOwn)
    .map((each): Selection => ({ ...each, destination: "own" }));
  return { ...service, selections };
}

function exceptLoopback(family: Family): Match {
  const bytes = new Uint8Array(family === 4 ? 4 : 16);
  if (family === 4) bytes[0] = 127;
  else bytes[15] = 1;
  const prefix = family === 4 ? 8 : 128;
  return { kind: "except", match: { kind: "destination", networks: [{ family, bytes, prefix }] } };
}

function guardMatches({ local, guards }: PathService): Match[] {
  if (!local) return [];
  const { mark, uids, gids, cgroups } = guards;
  return [
    ...(mark === undefined ? [] : [{ kind: "mark", mark } as const]),
    ...uids.map((id) => ({ kind: "user", id }) as const),
    ...gids.map((id) => ({ kind: "group", id }) as const),
    ...cgroups.map((path) => ({ kind: "cgroup", path }) as const),
  ].map((match): Match => ({ kind: "except", match }));
}

/**
 * Translates a new connection, and rejects it where its slot has no upstream. TCP connections
 * begin with a SYN alone: packets of one that is no longer known are rejected too.
 */
function toUpstream(
  service: PathService,
  family: Family,
  protocol: Protocol,
  where: readonly Match[],
  to: readonly Match[],
): FirewallRule[] {
  const { number, choice, pools } = service;
  const slots = pools.find((pool) => pool.family === family)?.slots.length ?? 0;
  const begins: Match[] = protocol === "tcp" ? [{ kind: "syn" }] : [];
  return [
    rule(
      family,
      service,
      "upstream",
      [...where, ...to, ...begins],
      [
        { kind: "mark-flow", mark: flowMark(number) },
        { kind: "flow-timeout", name: timeoutName(number, family, protocol) },
        { kind: "to-upstream", map: mapName(number, family), slots, choice },
      ],
    ),
    rule(family, service, "no upstream", [...where, ...to], [{ kind: "reject" }]),
  ];
}

function portsOf({ ports }: Selection): Match[] {
  return ports.length === 0 ? [] : [{ kind: "destination-port", ranges: ports }];
}

/** The state comes first: of other packets nothing else is asked. */
function invalid(sets: SelectionSets) {
  const state: Match = { kind: "flow-state", states: ["invalid"] };
  return (service: PathService): FirewallRule[] => [
    ...service.pools.flatMap(({ family }) =>
      service.protocols.map((protocol) =>
        rule(
          family,
          service,
          "invalid",
          [
            state,
            { kind: "protocol", protocol },
            { kind: "from-endpoint", set: endpointsName(service.number, family) },
          ],
          [{ kind: "drop" }],
        ),
      ),
    ),
    ...combinations(service, sets).map(({ family, protocol, selection, where }) =>
      rule(
        family,
        service,
        "no upstream",
        [state, ...where, { kind: "protocol", protocol }, ...portsOf(selection)],
        [{ kind: "drop" }],
      ),
    ),
  ];
}

function sourceRules(service: PathService, { sameLink }: PathIntent): FirewallRule[] {
  const mark: Match = { kind: "flow-mark", mark: flowMark(service.number) };
  const source = (family: Family, matches: readonly Match[], statement: Statement) =>
    rule(family, service, "source", [mark, ...matches], [statement]);
  return service.pools.flatMap(({ family }) => {
    if (service.source.kind === "self") return [source(family, [], { kind: "masquerade" })];
    if (service.source.kind === "addresses") {
      const address = service.source.addresses.find((each) => each.family === family);
      return address === undefined ? [] : [source(family, [], { kind: "from-address", address })];
    }
    return [
      ...sameLink.map((name) =>
        source(
          family,
          [
            { kind: "interface", names: [name] },
            { kind: "output-interface", names: [name] },
          ],
          { kind: "masquerade" },
        ),
      ),
      source(family, [], { kind: "from-address" }),
    ];
  });
}

function retryRules(service: PathService): FirewallRule[] {
  const { number, pools } = service;
  const mark: Match = { kind: "flow-mark", mark: flowMark(number) };
  return pools.flatMap(({ family }) => {
    const set = retriedName(number, family);
    const dropped = (...matches: Match[]) =>
      rule(family, service, "retry", matches, [{ kind: "drop" }]);
    return [
      dropped({ kind: "protocol", protocol: "tcp" }, { kind: "refusal" }, mark, {
        kind: "from-endpoint",
        set,
      }),
      dropped({ kind: "icmp" }, { kind: "flow-state", states: ["related"] }, mark, {
        kind: "unestablished",
        set,
      }),
    ];
  });
}

function offloadRules(service: PathService): FirewallRule[] {
  if (!service.offload) return [];
  return service.pools.map(({ family }) =>
    rule(
      family,
      service,
      "offload",
      [{ kind: "flow-mark", mark: flowMark(service.number) }],
      [{ kind: "offload", flowtable: flowtableName }],
    ),
  );
}
