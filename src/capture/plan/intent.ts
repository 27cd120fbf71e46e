/**
 * Which traffic to capture, and how: the first stage of Intent -> Plan -> text. An Intent comes
 * from a request (`request.ts`), checked, completed and free of contradictions.
 */

import * as v from "valibot";
import type { Mark, Port } from "../../../ffi/types.ts";
import { type Address, type Family, isLoopback } from "../../net/address.ts";
import { addressBits, type Cidr } from "../../net/cidr.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import { contradiction, type PlanIssue } from "./contradictions.ts";
import { privateNetworks } from "./private.ts";
import { type IntentRequest, RequestSchema } from "./request.ts";

export type { BackendRequest, IntentRequest } from "./request.ts";
export type Protocol = "tcp" | "udp";

/** Conditions that exempt the proxy's own packets from the capture. Empty: there are none. */
export interface Guards {
  /** Sockets with this SO_MARK. */
  readonly mark: MaskedMark | undefined;
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  /** Paths below the root of the cgroup v2 hierarchy. */
  readonly cgroups: readonly string[];
}

/** A host that the proxy connects to with its client's address. */
export interface BackendHost {
  readonly address: Address;
  /** Undefined: all that it sends comes back through this host. */
  readonly port: Port | undefined;
  /** The address is one of this host. */
  readonly here: boolean;
}

/** A complete, checked description of what is captured and where it goes. */
export interface Intent {
  /** Nothing was asked for: the commands are those of the article this project comes from. */
  readonly seed: boolean;
  /** Something is captured; otherwise only what belongs to connections of a proxy is delivered. */
  readonly captures: boolean;
  readonly families: readonly Family[];
  readonly protocols: readonly Protocol[];
  /** Empty: every unicast destination but this host's own addresses. */
  readonly destinations: readonly Cidr[];
  /** Empty: every source. */
  readonly sources: readonly Cidr[];
  /** Destination ports. Empty: every port. */
  readonly ports: readonly PortRange[];
  /** Connections with one of these marks (`ct mark`) are left alone: the kernel carries them. */
  readonly leaves?: readonly MaskedMark[];
  /** The kernel path carries connections here, so that connection tracking and NAT are on. */
  readonly isBesideNat?: boolean;
  /** Where packets arrive. Empty: every interface. */
  readonly interfaces: readonly string[];
  /** Destinations that are never captured. */
  readonly bypass: readonly Cidr[];
  /** Also what programs of this host send, except what the guards name. */
  readonly local: boolean;
  readonly guards: Guards;
  /** Replies to connections with a foreign source address are brought to their socket. */
  readonly replyPath: boolean;
  readonly mark: MaskedMark;
  readonly table: number;
  /** The ip rule's priority. Undefined: the kernel chooses one below the lowest, other than 0. */
  readonly priority: number | undefined;
  /** Marks ip rules and routes as ours (rtm_protocol, FRA_PROTOCOL). */
  readonly tag: number | undefined;
  /** The listener's port, by TPROXY. Undefined: the mark alone, so the port stays as it is. */
  readonly toPort: Port | undefined;
  /** The listener's address, one a family. Empty: TPROXY takes the incoming interface's. */
  readonly toAddresses: readonly Address[];
  /** NAT to `toPort` of this host instead of TPROXY; no mark and no route then. */
  readonly redirect: boolean;
  readonly backends: readonly BackendHost[];
  /** The name of the firewall table, and of what iptables needs in its place. */
  readonly tableName: string;
  /** Whether sysctls are set, or only printed. */
  readonly sysctl: boolean;
}

/** What became of a request. */
export type ParsedIntent =
  | { readonly ok: true; readonly value: Intent }
  | { readonly ok: false; readonly issue: PlanIssue };

/**
 * The defaults of a production setup, used as soon as any option is given. `priority` comes before
 * the rules of VPNs and of network managers, `tag` is a routing protocol number that
 * /etc/iproute2/rt_protos leaves free, `tproxy` itself would be a keyword of nft.
 */
const defaults = {
  mark: { value: 1 as Mark, mask: 1 },
  table: 100,
  priority: 100,
  tag: 116,
  protocols: ["tcp"] as const,
  tableName: "tproxyd",
};

const seedDestination: Cidr = { family: 4, bytes: Uint8Array.of(8, 8, 8, 8), prefix: 32 };

/** The intent of the article: tcp to 8.8.8.8 through lo, mark 0x1/0x1, table 100. */
const seedIntent: Intent = {
  seed: true,
  captures: true,
  families: [4],
  protocols: defaults.protocols,
  destinations: [seedDestination],
  sources: [],
  ports: [],
  interfaces: ["lo"],
  bypass: [],
  local: false,
  guards: { mark: undefined, uids: [], gids: [], cgroups: [] },
  replyPath: false,
  mark: defaults.mark,
  table: defaults.table,
  priority: undefined,
  tag: undefined,
  toPort: undefined,
  toAddresses: [],
  redirect: false,
  backends: [],
  tableName: defaults.tableName,
  sysctl: false,
};

/** The fields that define what is captured. */
const capturing: readonly (keyof IntentRequest)[] = [
  ...(["destinations", "sources", "ports", "interfaces"] as const),
  ...(["bypass", "bypassPrivate", "local"] as const),
];
/** Those that say it as well, but of the reply path alone which replies. */
const narrowing: readonly (keyof IntentRequest)[] = ["protocols", "families"];

/**
 * Checks a request and fills in what it leaves open.
 *
 * - Nothing given: the seed's intent, to the letter.
 * - Anything given about what is captured: the seed's destination 8.8.8.8 and its interface lo no
 *   longer apply. Without a destination, every unicast address but this host's own is captured, so
 *   that a rule for a port does not lock out its author.
 * - The reply path, and nothing about what is captured: nothing is. It is of tcp and udp.
 * - Families follow from the addresses; with no address, both.
 * - Any field given: ip rules get a priority and, like routes, a protocol number (defaults).
 * - Backends need the reply path.
 */
export function parseIntent(request: unknown): ParsedIntent {
  const result = v.safeParse(RequestSchema, request);
  if (!result.success) {
    const [issue] = result.issues;
    const path = (issue.path ?? []).map(({ key }) => key as string | number);
    const args = { field: v.getDotPath(issue) ?? undefined, text: issue.message };
    return { ok: false, issue: { path, code: "invalid", args } };
  }
  const intent = complete(result.output);
  const issue = contradiction(result.output, intent);
  return issue === undefined ? { ok: true, value: intent } : { ok: false, issue };
}

function complete(request: IntentRequest): Intent {
  if (Object.values(request).every((value) => value === undefined)) return seedIntent;
  const { toAddresses = [], backends = [] } = request;
  const replyPath = request.replyPath ?? backends.length > 0;
  const isGiven = (name: keyof IntentRequest) => request[name] !== undefined;
  const captures = capturing.some(isGiven) || !replyPath || request.redirect === true;
  const isSeeds = captures && ![...capturing, ...narrowing].some(isGiven);
  const capture = isSeeds ? seedIntent : request;
  const { destinations = [], sources = [], ports = [], interfaces = [] } = capture;
  const named = captures ? [] : backends.map(({ address }) => address);
  const addresses = [...destinations, ...sources, ...[...toAddresses, ...named].map(alone)];
  const own = request.bypass ?? [];
  return {
    seed: false,
    captures,
    families: capture.families ?? familiesOf(addresses),
    protocols: unique(capture.protocols ?? (captures ? defaults.protocols : ["tcp", "udp"])),
    destinations,
    sources,
    ports,
    interfaces: unique(interfaces),
    bypass: request.bypassPrivate ? [...own, ...privateNetworks] : own,
    local: request.local ?? false,
    guards: {
      mark: request.guardMark,
      uids: unique(request.guardUids ?? []),
      gids: unique(request.guardGids ?? []),
      cgroups: unique(request.guardCgroups ?? []),
    },
    replyPath,
    mark: request.mark ?? defaults.mark,
    table: request.table ?? defaults.table,
    priority: request.priority ?? defaults.priority,
    tag: defaults.tag,
    toPort: request.toPort,
    toAddresses,
    redirect: request.redirect ?? false,
    backends: backends.map(({ address, port, here = isLoopback(address) }) => ({
      ...{ address, port, here },
    })),
    tableName: request.tableName ?? defaults.tableName,
    sysctl: request.sysctl ?? false,
  };
}

/** One address as a network. */
function alone({ family, bytes }: Address): Cidr {
  return { family, bytes, prefix: addressBits(family) };
}

/** The families that a list of networks speaks of; both if it is empty. */
function familiesOf(networks: readonly Cidr[]): readonly Family[] {
  const found = ([4, 6] as const).filter((family) => networks.some((n) => n.family === family));
  return found.length === 0 ? [4, 6] : found;
}

function unique<T>(items: readonly T[]): readonly T[] {
  return [...new Set(items)];
}
