/** Contradictions in a request for an Intent. Every message is one line for its author. */

import { type Address, type Family, formatAddress, isLoopback } from "../../net/address.ts";
import { type Cidr, cidrContains, formatCidr } from "../../net/cidr.ts";
import { formatMark, type MaskedMark } from "../../net/mark.ts";
import { quote } from "../../net/result.ts";
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

type Check = (request: IntentRequest, completed: Completed) => string | undefined;

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

/** The first contradiction, as an error text; undefined when there is none. */
export function contradiction(request: IntentRequest, completed: Completed): string | undefined {
  for (const check of checks) {
    const message = check(request, completed);
    if (message !== undefined) return message;
  }
  return undefined;
}

/**
 * Every address must be of a family that is captured, and where addresses restrict one family they
 * must restrict the other: a missing one would mean "every address" there.
 */
function checkFamilies(request: IntentRequest, { families }: Completed): string | undefined {
  const { destinations = [], sources = [] } = request;
  for (const [what, networks] of Object.entries({ destination: destinations, source: sources })) {
    const stray = networks.find((network) => !families.includes(network.family));
    if (stray !== undefined) {
      return (
        `${what} "${formatCidr(stray)}" is IPv${stray.family}, but the family is ` +
        `${families.join(" and ")}: give an IPv${families[0]} one, or leave the family out`
      );
    }
    const bare = families.find((family) => !networks.some((n) => n.family === family));
    const [first] = networks;
    if (first !== undefined && bare !== undefined) {
      const all = bare === 4 ? "0.0.0.0/0" : "::/0";
      return (
        `${what} "${formatCidr(first)}" says nothing about IPv${bare}: add an IPv${bare} ${what} ` +
        `("${all}" for every one), or capture IPv${first.family} alone`
      );
    }
  }
  return undefined;
}

function checkCombinations(request: IntentRequest): string | undefined {
  const { destinations = [], sources = [], ports = [], interfaces = [] } = request;
  const networks = [destinations, sources].map(({ length }) =>
    length > listedNetworksMax ? 1 : length,
  );
  const count = [...networks, ports.length, interfaces.length].reduce(
    (product, length) => product * Math.max(length, 1),
    1,
  );
  if (count <= combinationsMax) return undefined;
  return (
    `${count} combinations of destination, source, port and interface are too many: ` +
    `give at most ${combinationsMax}`
  );
}

function checkRedirect(request: IntentRequest, { protocols }: Completed): string | undefined {
  if (!request.redirect) return undefined;
  if (request.toPort === undefined) {
    return "--redirect has no port to redirect to: add --to-port";
  }
  if (protocols.includes("udp")) {
    return (
      "--redirect cannot capture udp: NAT hides from the listener where a datagram was sent to; " +
      "capture tcp alone, or leave --redirect out"
    );
  }
  const useless = {
    "--mark": request.mark,
    "--table": request.table,
    "--priority": request.priority,
    "--to-address": request.toAddresses,
    "--reply-path": request.replyPath || undefined,
    "--backend": request.backends,
    "--sysctl": request.sysctl || undefined,
  };
  const [name] = Object.entries(useless).find(([, value]) => value !== undefined) ?? [];
  if (name === undefined) return undefined;
  return `--redirect has no use for ${name}: it works by NAT, without mark, route or spoofing`;
}

function checkListener(request: IntentRequest, completed: Completed): string | undefined {
  const { families, captures } = completed;
  if (!captures && request.toPort !== undefined) {
    return (
      "--to-port has nothing to hand over: the reply path alone captures nothing; say what with " +
      "--dst, --dport or --in, or leave --to-port out"
    );
  }
  const addresses: readonly Address[] = request.toAddresses ?? [];
  if (addresses.length === 0) return undefined;
  if (request.toPort === undefined) return "--to-address has no port: add --to-port";
  const each = families.every(
    (family) => addresses.filter((address) => address.family === family).length === 1,
  );
  if (each && addresses.length === families.length) return undefined;
  return (
    `--to-address takes one address for each family that is captured, here ` +
    `${families.map((family) => `IPv${family}`).join(" and ")}: give those, or another --family`
  );
}

function checkBypass(_: IntentRequest, completed: Completed): string | undefined {
  const { destinations, bypass, families } = completed;
  const isLeftAlone = (network: Cidr) => bypass.some((other) => cidrContains(other, network));
  const emptied = families.find((family) => aggregate(bypass, family)[0]?.prefix === 0);
  if (emptied !== undefined) {
    return `nothing of IPv${emptied} is left to capture: bypass less of it`;
  }
  // A long list is no contradiction that somebody typed, and takes long to compare.
  if (destinations.length > listedNetworksMax) return undefined;
  const [first] = destinations;
  if (first === undefined || !destinations.every(isLeftAlone)) return undefined;
  return (
    `nothing is left to capture: destination ${quote(formatCidr(first))} is also to be ` +
    "bypassed; leave one of them out"
  );
}

/**
 * What the proxy sends must not be captured again. That is sure with a guard, or when all that it
 * connects to are backends that are not captured.
 */
function checkLoops(request: IntentRequest, completed: Completed): string | undefined {
  const { guardMark, guardUids, guardGids, guardCgroups, backends = [] } = request;
  const isGuarded = [guardMark, guardUids, guardGids, guardCgroups].some((one) => one);
  if (!request.local) {
    if (!isGuarded) return undefined;
    return "a guard tells the proxy's own packets from those of other programs: add --local";
  }
  if (isGuarded) return undefined;
  if (backends.length > 0 && backends.every(({ address }) => isPast(address, completed))) {
    return undefined;
  }
  return (
    "--local would capture what the proxy itself sends, in a loop: add --guard-mark (its " +
    "SO_MARK), --guard-uid, --guard-gid or --guard-cgroup, or name all that it connects to with " +
    "--backend and --bypass"
  );
}

function isPast(address: Address, { destinations, bypass }: Completed): boolean {
  if (bypass.some((network) => cidrContains(network, address))) return true;
  if (isLoopback(address)) return true;
  return destinations.length > 0 && !destinations.some((one) => cidrContains(one, address));
}

/** Packets with the guard's mark would be routed to the listener if they had ours as well. */
function checkGuardMark({ guardMark }: IntentRequest, { mark }: Completed): string | undefined {
  if (guardMark === undefined || (guardMark.value & mark.mask) >>> 0 !== mark.value) {
    return undefined;
  }
  const free = (~mark.mask & -~mark.mask) >>> 0;
  const text = formatMark({ value: free as MaskedMark["value"], mask: free });
  const other = free === 0 ? "and give --mark a mask" : `"${text}"`;
  return (
    `guard mark "${formatMark(guardMark)}" has the mark ${formatMark(mark)} in it, by which ` +
    `packets are routed to the listener: give another, ${other}`
  );
}

/** Rules that would take more than a backend's replies from this host, or nothing at all. */
function checkBackends({ backends = [] }: IntentRequest, { families }: Completed) {
  for (const { address, port, here } of backends) {
    const text = formatAddress(address);
    if (!families.includes(address.family)) {
      return (
        `backend "${text}" is IPv${address.family}, but what is captured is IPv${families[0]}: ` +
        `its clients have addresses of its own family; add --family ${address.family}, or both`
      );
    }
    if (here && port === undefined && !isLoopback(address)) {
      return (
        `backend "${text}" is an address of this host, and all that this host sends from it ` +
        `would be taken for answers: give the port too, ${quote(`${bracketed(address)}:80`)}`
      );
    }
  }
  return undefined;
}

function bracketed(address: Address): string {
  return address.family === 4 ? formatAddress(address) : `[${formatAddress(address)}]`;
}

function checkSysctl(request: IntentRequest, completed: Completed): string | undefined {
  if (!request.sysctl) return undefined;
  const { families, interfaces, replyPath } = completed;
  const isLoAlone = interfaces.length > 0 && interfaces.every((name) => name === "lo");
  if (families.includes(4) && (replyPath || !isLoAlone)) return undefined;
  return "--sysctl sets nothing here: settings are made for IPv4, and for other interfaces than lo";
}
