/**
 * What to capture, and how: the first stage of Intent -> Plan -> text. An Intent comes from
 * outside (options, later a configuration), so a valibot schema checks it. Everything in it ends
 * up in shell and nft scripts: after the check no field holds free text.
 */

import * as v from "valibot";
import type { Mark, Port } from "../../ffi/types.ts";
import type { Family } from "../net/address.ts";
import { addressBits, type Cidr, formatCidr, networkOf } from "../net/cidr.ts";
import { interfaceName } from "../net/interface.ts";
import { formatMark, fullMask, type MaskedMark } from "../net/mark.ts";
import type { PortRange } from "../net/port.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";

export type Protocol = "tcp" | "udp";

/** A complete, checked description of what is captured and where it goes. */
export interface Intent {
  /** Nothing was asked for: the commands are those of the article this project comes from. */
  readonly seed: boolean;
  readonly families: readonly Family[];
  readonly protocols: readonly Protocol[];
  /** Empty: every unicast destination but this host's own addresses. */
  readonly destinations: readonly Cidr[];
  /** Empty: every source. */
  readonly sources: readonly Cidr[];
  /** Destination ports. Empty: every port. */
  readonly ports: readonly PortRange[];
  /** Where packets arrive. Empty: every interface. */
  readonly interfaces: readonly string[];
  readonly mark: MaskedMark;
  readonly table: number;
  /** Of the ip rule. Undefined: the kernel's choice, one less than the lowest but 0. */
  readonly priority: number | undefined;
  /** Sent with ip rules and routes to tell whose they are (rtm_protocol, FRA_PROTOCOL). */
  readonly tag: number | undefined;
  /** The listener's port, by TPROXY. Undefined: the mark alone, so the port stays as it is. */
  readonly toPort: Port | undefined;
}

/**
 * The defaults of a production setup, used as soon as any option is given. `priority` comes before
 * the rules of VPNs and of network managers, `tag` is a routing protocol number that
 * /etc/iproute2/rt_protos leaves free.
 */
const defaults = {
  mark: { value: 1 as Mark, mask: 1 },
  table: 100,
  priority: 100,
  tag: 116,
  protocols: ["tcp"] as const,
};

const seedDestination: Cidr = { family: 4, bytes: Uint8Array.of(8, 8, 8, 8), prefix: 32 };

/** The intent of the article: tcp to 8.8.8.8 through lo, mark 0x1/0x1, table 100. */
const seedIntent: Intent = {
  seed: true,
  families: [4],
  protocols: defaults.protocols,
  destinations: [seedDestination],
  sources: [],
  ports: [],
  interfaces: ["lo"],
  mark: defaults.mark,
  table: defaults.table,
  priority: undefined,
  tag: undefined,
  toPort: undefined,
};

/** The most entries of one list. */
const listMax = 1000;
/** The most combinations of destination, source, ports and interface: each is an iptables rule. */
const combinationsMax = 10_000;

const integer = (min: number, max: number, what: string) => {
  const message = (issue: v.BaseIssue<unknown>) =>
    `${quote(String(issue.input))} is not ${what}: give a number from ${min} to ${max}`;
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
};

const list = <Item extends v.GenericSchema>(item: Item, what: string) =>
  v.optional(
    v.pipe(
      v.array(item),
      v.minLength(1, `the list of ${what} is empty: give at least one, or leave it out`),
      v.maxLength(listMax, `there are too many ${what}: give at most ${listMax}`),
    ),
  );

const Network = v.custom<Cidr>(isCidr, "not a network: give one made by parseCidr");

const port = integer(1, 65535, "a port");
const Range = v.pipe(
  v.object({ from: port, to: port }),
  v.check(({ from, to }) => from <= to, "a range of ports ends before it starts"),
  v.transform((range) => range as PortRange),
);

const InterfaceName = v.pipe(
  v.string(),
  v.regex(interfaceName, (issue) => `${quote(String(issue.input))} is not an interface's name`),
);

const u32 = integer(0, fullMask, "a mark");
const FirewallMark = v.pipe(
  v.object({ value: u32, mask: u32 }),
  v.check(
    ({ value, mask }) => value !== 0 && (value & ~mask) === 0,
    ({ input }) =>
      `${quote(formatMark(input as MaskedMark))} marks nothing: give a mark that is not 0 and ` +
      `lies within its mask, "0x1/0x1"`,
  ),
  v.transform((mark) => mark as MaskedMark),
);

const Table = v.pipe(
  integer(1, 0xffffffff, "a routing table"),
  v.check(
    (table) => table < 253 || table > 255,
    ({ input }) =>
      `"${input}" is a table of the system (253 default, 254 main, 255 local): give another, "100"`,
  ),
);

const Request = v.strictObject({
  destinations: list(Network, "destinations"),
  sources: list(Network, "sources"),
  ports: list(Range, "ports"),
  interfaces: list(InterfaceName, "interfaces"),
  protocols: list(v.picklist(["tcp", "udp"], "a protocol is tcp or udp"), "protocols"),
  families: list(v.picklist([4, 6], "a family is 4 or 6"), "families"),
  mark: v.optional(FirewallMark),
  table: v.optional(Table),
  priority: v.optional(integer(1, 32765, "a priority of an ip rule")),
  toPort: v.optional(
    v.pipe(
      port,
      v.transform((value) => value as Port),
    ),
  ),
});

/** What may be asked for; every field is optional. */
export type IntentRequest = v.InferOutput<typeof Request>;

const crossChecks = [checkFamilies, checkCombinations];

const IntentSchema = v.pipe(
  Request,
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    for (const rule of crossChecks) {
      const message = rule(dataset.value);
      if (message !== undefined) addIssue({ message });
    }
  }),
  v.transform(complete),
);

/**
 * Checks a request and fills in what it leaves open.
 *
 * - Nothing given: the seed's intent, to the letter.
 * - A destination, source, port, interface, protocol or family given: the seed's destination
 *   8.8.8.8 and its interface lo no longer apply. Without a destination, every unicast address but
 *   this host's own is captured, so that a rule for a port does not lock out its author.
 * - Families follow from the addresses; with no address, both.
 * - Any field given: ip rules get a priority and, like routes, a protocol number (defaults).
 */
export function parseIntent(request: unknown): Parsed<Intent> {
  const result = v.safeParse(IntentSchema, request);
  if (result.success) return ok(result.output);
  const [issue] = result.issues;
  const path = v.getDotPath(issue);
  return refuse(path === null ? issue.message : `${path}: ${issue.message}`);
}

function complete(request: IntentRequest): Intent {
  const given = Object.entries(request).filter(([, value]) => value !== undefined);
  if (given.length === 0) return seedIntent;
  const how = ["mark", "table", "priority", "toPort"];
  const capture = given.some(([name]) => !how.includes(name)) ? request : seedIntent;
  const { destinations = [], sources = [], ports = [], interfaces = [] } = capture;
  return {
    seed: false,
    families: capture.families ?? familiesOf([...destinations, ...sources]),
    protocols: unique(capture.protocols ?? defaults.protocols),
    destinations,
    sources,
    ports,
    interfaces: unique(interfaces),
    mark: request.mark ?? defaults.mark,
    table: request.table ?? defaults.table,
    priority: request.priority ?? defaults.priority,
    tag: defaults.tag,
    toPort: request.toPort,
  };
}

/** The families that a list of networks speaks of; both if it is empty. */
function familiesOf(networks: readonly Cidr[]): readonly Family[] {
  const found = ([4, 6] as const).filter((family) => networks.some((n) => n.family === family));
  return found.length === 0 ? [4, 6] : found;
}

/**
 * Every address must be of a family that is captured, and where addresses restrict one family they
 * must restrict the other: a missing one would mean "every address" there.
 */
function checkFamilies(request: IntentRequest): string | undefined {
  const { destinations = [], sources = [] } = request;
  const families = request.families ?? familiesOf([...destinations, ...sources]);
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
  const { destinations, sources, ports, interfaces } = request;
  const count = [destinations, sources, ports, interfaces].reduce(
    (product, entries) => product * (entries?.length ?? 1),
    1,
  );
  if (count <= combinationsMax) return undefined;
  return (
    `${count} combinations of destination, source, port and interface are too many: ` +
    `give at most ${combinationsMax}`
  );
}

function isCidr(input: unknown): input is Cidr {
  const { family, bytes, prefix } = (input ?? {}) as Partial<Cidr>;
  if ((family !== 4 && family !== 6) || !(bytes instanceof Uint8Array)) return false;
  const bits = addressBits(family);
  if (bytes.length * 8 !== bits || !Number.isInteger(prefix)) return false;
  if (prefix === undefined || prefix < 0 || prefix > bits) return false;
  return networkOf({ family, bytes }, prefix).bytes.every((byte, i) => byte === bytes[i]);
}

function unique<T>(items: readonly T[]): readonly T[] {
  return [...new Set(items)];
}
