/** Contradictions in a request for an Intent. Every message is one line for its author. */

import { type Address, type Family, formatAddress, isLoopback } from "../../net/address.ts";
import { type Cidr, cidrContains, formatCidr } from "../../net/cidr.ts";
import type { IssueOf } from "../../net/issue.ts";
import { formatMark, type MaskedMark } from "../../net/mark.ts";
import { aggregate } from "./networks.ts";
import type { IntentRequest } from "./request.ts";

/** The parts of an Intent that can contradict each other. */
interface Completed {
  readonly families: readonly Family[];
  readonly protocols: readonly string[];
  readonly destinations: readonly Cidr[];
  readonly bypass: readonly Cidr[];
  readonly interfaces: readonly string[];
  readonly replyPath: boolean;
  readonly mark: MaskedMark;
  readonly captures: boolean;
}

/** What the text of each kind of contradiction needs. */
export interface PlanIssueArgs {
  /** A field has a value that it may never have, which the text describes. */
  invalid: { readonly field: string | undefined; readonly text: string };
  "stray-family": {
    readonly what: "destination" | "source";
    readonly network: string;
    readonly family: Family;
    readonly families: readonly Family[];
  };
  "bare-family": {
    readonly what: "destination" | "source";
    readonly network: string;
    readonly family: Family;
    readonly bare: Family;
  };
  "too-many-combinations": { readonly count: number; readonly max: number };
  "redirect-without-port": Record<never, never>;
  "redirect-udp": Record<never, never>;
  /** NAT has no use for the field of the path. */
  "redirect-needless": { readonly field: RedirectNeedless };
  /** Nothing is captured that could be handed to the port. */
  "nothing-to-hand-over": Record<never, never>;
  "address-without-port": Record<never, never>;
  "address-per-family": { readonly families: readonly Family[] };
  "all-bypassed": { readonly family: Family };
  "destinations-bypassed": { readonly destination: string };
  "guard-without-local": Record<never, never>;
  "local-loop": Record<never, never>;
  /** `free` is a mark that could be the guard's; undefined: there is none. */
  "guard-is-mark": {
    readonly guard: string;
    readonly mark: string;
    readonly free: string | undefined;
  };
  "backend-family": {
    readonly backend: string;
    readonly family: Family;
    readonly families: readonly Family[];
  };
  "backend-without-port": { readonly backend: string; readonly example: string };
  "sysctl-of-nothing": Record<never, never>;
}

export type PlanIssue = IssueOf<PlanIssueArgs>;

type Check = (request: IntentRequest, completed: Completed) => PlanIssue | undefined;

const none = {} as const;

/** Longer lists of networks are sets, for iptables as well: they multiply no rules. */
export const listedNetworksMax = 64;
/** The most combinations of destination, source, ports and interface: each is an iptables rule. */
const combinationsMax = 10_000;

const checks: readonly Check[] = [
  checkFamilies,
  checkCombinations,
  checkRedirect,
  checkListener,
  checkBypass,
  checkLoops,
  checkGuardMark,
  checkBackends,
  checkSysctl,
];

/** The first contradiction; undefined when there is none. */
export function contradiction(request: IntentRequest, completed: Completed): PlanIssue | undefined {
  for (const check of checks) {
    const issue = check(request, completed);
    if (issue !== undefined) return issue;
  }
  return undefined;
}

/**
 * Every address must be of a family that is captured, and where addresses restrict one family they
 * must restrict the other: a missing one would mean "every address" there.
 */
function checkFamilies(request: IntentRequest, { families }: Completed): PlanIssue | undefined {
  const { destinations = [], sources = [] } = request;
  for (const what of ["destination", "source"] as const) {
    const networks = what === "destination" ? destinations : sources;
    const path = [`${what}s`];
    const stray = networks.find((network) => !families.includes(network.family));
    if (stray !== undefined) {
      const { family } = stray;
      const args = { what, network: formatCidr(stray), family, families };
      return { path, code: "stray-family", args };
    }
    const bare = families.find((family) => !networks.some((n) => n.family === family));
    const [first] = networks;
    if (first !== undefined && bare !== undefined) {
      const args = { what, network: formatCidr(first), family: first.family, bare };
      return { path, code: "bare-family", args };
    }
  }
  return undefined;
}

function checkCombinations(request: IntentRequest): PlanIssue | undefined {
  const { destinations = [], sources = [], ports = [], interfaces = [] } = request;
  const networks = [destinations, sources].map(({ length }) =>
    length > listedNetworksMax ? 1 : length,
  );
  const count = [...networks, ports.length, interfaces.length].reduce(
    (product, length) => product * Math.max(length, 1),
    1,
  );
  if (count <= combinationsMax) return undefined;
  return { path: [], code: "too-many-combinations", args: { count, max: combinationsMax } };
}

/** Fields of a request that NAT does without. */
const redirectNeedless = [
  ...(["mark", "table", "priority", "toAddresses"] as const),
  ...(["replyPath", "backends", "sysctl"] as const),
];
type RedirectNeedless = (typeof redirectNeedless)[number];

function checkRedirect(request: IntentRequest, { protocols }: Completed): PlanIssue | undefined {
  if (!request.redirect) return undefined;
  if (request.toPort === undefined) {
    return { path: ["redirect"], code: "redirect-without-port", args: none };
  }
  if (protocols.includes("udp")) return { path: ["redirect"], code: "redirect-udp", args: none };
  const field = redirectNeedless.find((name) => request[name] !== undefined && request[name]);
  if (field === undefined) return undefined;
  return { path: [field], code: "redirect-needless", args: { field } };
}

function checkListener(request: IntentRequest, completed: Completed): PlanIssue | undefined {
  const { families, captures } = completed;
  if (!captures && request.toPort !== undefined) {
    return { path: ["toPort"], code: "nothing-to-hand-over", args: none };
  }
  const addresses: readonly Address[] = request.toAddresses ?? [];
  if (addresses.length === 0) return undefined;
  const path = ["toAddresses"];
  if (request.toPort === undefined) return { path, code: "address-without-port", args: none };
  const each = families.every(
    (family) => addresses.filter((address) => address.family === family).length === 1,
  );
  if (each && addresses.length === families.length) return undefined;
  return { path, code: "address-per-family", args: { families } };
}

function checkBypass(_: IntentRequest, completed: Completed): PlanIssue | undefined {
  const { destinations, bypass, families } = completed;
  const isLeftAlone = (network: Cidr) => bypass.some((other) => cidrContains(other, network));
  const emptied = families.find((family) => aggregate(bypass, family)[0]?.prefix === 0);
  const path = ["bypass"];
  if (emptied !== undefined) return { path, code: "all-bypassed", args: { family: emptied } };
  // A long list is no contradiction that somebody typed, and takes long to compare.
  if (destinations.length > listedNetworksMax) return undefined;
  const [first] = destinations;
  if (first === undefined || !destinations.every(isLeftAlone)) return undefined;
  return { path, code: "destinations-bypassed", args: { destination: formatCidr(first) } };
}

/**
 * What the proxy sends must not be captured again. That is sure with a guard, or when all that it
 * connects to are backends that are not captured.
 */
function checkLoops(request: IntentRequest, completed: Completed): PlanIssue | undefined {
  const { guardMark, guardUids, guardGids, guardCgroups, backends = [] } = request;
  const isGuarded = [guardMark, guardUids, guardGids, guardCgroups].some((one) => one);
  if (!request.local) {
    if (!isGuarded) return undefined;
    return { path: ["local"], code: "guard-without-local", args: none };
  }
  if (isGuarded) return undefined;
  if (backends.length > 0 && backends.every(({ address }) => isPast(address, completed))) {
    return undefined;
  }
  return { path: ["local"], code: "local-loop", args: none };
}

function isPast(address: Address, { destinations, bypass }: Completed): boolean {
  if (bypass.some((network) => cidrContains(network, address))) return true;
  if (isLoopback(address)) return true;
  return destinations.length > 0 && !destinations.some((one) => cidrContains(one, address));
}

/** Packets with the guard's mark would be routed to the listener if they had ours as well. */
function checkGuardMark({ guardMark }: IntentRequest, { mark }: Completed): PlanIssue | undefined {
  if (guardMark === undefined || (guardMark.value & mark.mask) >>> 0 !== mark.value) {
    return undefined;
  }
  const free = (~mark.mask & -~mark.mask) >>> 0;
  const text = formatMark({ value: free as MaskedMark["value"], mask: free });
  const args = {
    guard: formatMark(guardMark),
    mark: formatMark(mark),
    free: free === 0 ? undefined : text,
  };
  return { path: ["guardMark"], code: "guard-is-mark", args };
}

/** Rules that would take more than a backend's replies from this host, or nothing at all. */
function checkBackends(
  { backends = [] }: IntentRequest,
  { families }: Completed,
): PlanIssue | undefined {
  for (const [i, { address, port, here }] of backends.entries()) {
    const path = ["backends", i];
    const backend = formatAddress(address);
    if (!families.includes(address.family)) {
      const args = { backend, family: address.family, families };
      return { path, code: "backend-family", args };
    }
    if (here && port === undefined && !isLoopback(address)) {
      const args = { backend, example: `${bracketed(address)}:80` };
      return { path, code: "backend-without-port", args };
    }
  }
  return undefined;
}

function bracketed(address: Address): string {
  return address.family === 4 ? formatAddress(address) : `[${formatAddress(address)}]`;
}

function checkSysctl(request: IntentRequest, completed: Completed): PlanIssue | undefined {
  if (!request.sysctl) return undefined;
  const { families, interfaces, replyPath } = completed;
  const isLoAlone = interfaces.length > 0 && interfaces.every((name) => name === "lo");
  if (families.includes(4) && (replyPath || !isLoAlone)) return undefined;
  return { path: ["sysctl"], code: "sysctl-of-nothing", args: none };
}
