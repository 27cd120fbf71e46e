/**
 * The schema of a request for an Intent, which comes from outside: options, later a configuration.
 * Everything in it ends up in shell and nft scripts: after the check no field holds free text.
 */

import * as v from "valibot";
import type { Port } from "../../../ffi/types.ts";
import type { Address } from "../../net/address.ts";
import { addressBits, type Cidr, hasHostBits } from "../../net/cidr.ts";
import { isPattern } from "../../net/interface.ts";
import { formatMark, fullMask, type MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import { quote } from "../../net/result.ts";

/** The most entries of a list of ports, interfaces and the like. */
const listMax = 1000;
/** The most networks of a list: it becomes a set, not rules. */
const networksMax = 200_000;

const integer = (min: number, max: number, what: string) => {
  const message = ({ input, received }: v.BaseIssue<unknown>) => {
    // An object need not have a text, and asking it for one may throw.
    const isPlain = typeof input === "number" || typeof input === "string";
    const shown = isPlain ? quote(String(input)) : received;
    return `${shown} is not ${what}: give a number from ${min} to ${max}`;
  };
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
};

const sized = <List extends v.GenericSchema<readonly unknown[]>>(
  list: List,
  what: string,
  max: number,
) =>
  v.optional(
    v.pipe(
      list,
      v.minLength(1, `the list of ${what} is empty: give at least one, or leave it out`),
      v.maxLength(max, `there are too many ${what}: give at most ${max}`),
    ),
  );

const list = <Item extends v.GenericSchema>(item: Item, what: string, max = listMax) =>
  sized(v.array(item), what, max);

/** Checked in one loop: a schema for each network would take longer than all that follows. */
const Networks = v.pipe(
  v.custom<readonly Cidr[]>((input) => Array.isArray(input), "not a list: give an array"),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const { value: input } = dataset;
    for (let key = 0; key < input.length; key++) {
      const value = input[key];
      if (isCidr(value)) continue;
      addIssue({
        message: "not a network: give one made by parseCidr",
        path: [{ type: "unknown", origin: "value", input, key, value }],
      });
    }
  }),
);
const networks = (what: string) => sized(Networks, what, networksMax);

const HostAddress = v.custom<Address>(isAddress, "not an address: give one made by parseAddress");

const port = integer(1, 65535, "a port");
const PortNumber = v.pipe(
  port,
  v.transform((value) => value as Port),
);
const Range = v.pipe(
  v.object({ from: port, to: port }),
  v.check(({ from, to }) => from <= to, "a range of ports ends before it starts"),
  v.transform((range) => range as PortRange),
);

const InterfaceName = v.pipe(
  v.string(),
  v.check(isPattern, (issue) => `${quote(String(issue.input))} is not an interface's name`),
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

/**
 * The firewall table's name, which also begins the names of iptables chains (28 characters, less
 * `-output`) and ipsets. The prefix marks it as ours, and no keyword of nft begins so.
 */
const TableName = v.pipe(
  v.string(),
  v.regex(
    /^tproxyd[A-Za-z0-9_-]{0,13}$/,
    ({ input }) =>
      `${quote(String(input))} is not accepted: give a name that begins with "tproxyd" and has ` +
      `at most 20 letters, digits, "_" or "-", "tproxyd-lan"`,
  ),
  v.check(
    (name) => !/_(?:closed|pending|confirmed|lock|draining_\d+)$/.test(name),
    ({ input }) =>
      `${quote(String(input))} is a name of tproxy's own, for a table beside a set-up's: give ` +
      'another, "tproxyd-lan"',
  ),
);

/** A control group as nft and iptables take it: from the root of the hierarchy, with no `..`. */
const ControlGroup = v.pipe(
  v.string(),
  v.regex(
    /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))[A-Za-z0-9_.@:-]+(?:\/[A-Za-z0-9_.@:-]+){0,14}$/,
    ({ input }) =>
      `${quote(String(input))} is not a control group: give its path below the root of the ` +
      `hierarchy, "system.slice/tproxy.service"`,
  ),
);

const identity = (what: string) => integer(0, 0xfffffffe, what);

/** The schema of a request for an Intent. */
export const RequestSchema = v.strictObject({
  destinations: networks("destinations"),
  sources: networks("sources"),
  ports: list(Range, "ports"),
  interfaces: list(InterfaceName, "interfaces"),
  protocols: list(v.picklist(["tcp", "udp"], "a protocol is tcp or udp"), "protocols"),
  families: list(v.picklist([4, 6], "a family is 4 or 6"), "families"),
  bypass: networks("networks to bypass"),
  bypassPrivate: v.optional(v.boolean()),
  local: v.optional(v.boolean()),
  guardMark: v.optional(FirewallMark),
  guardUids: list(identity("a user's id"), "users"),
  guardGids: list(identity("a group's id"), "groups"),
  guardCgroups: list(ControlGroup, "control groups"),
  replyPath: v.optional(v.boolean()),
  mark: v.optional(FirewallMark),
  table: v.optional(Table),
  priority: v.optional(integer(1, 32765, "a priority of an ip rule")),
  toPort: v.optional(PortNumber),
  toAddresses: list(HostAddress, "addresses of the listener", 2),
  redirect: v.optional(v.boolean()),
  backends: list(
    v.object({
      address: HostAddress,
      port: v.optional(PortNumber),
      /** An address of this host; only a loopback one is known to be without it. */
      here: v.optional(v.boolean()),
    }),
    "backends",
  ),
  tableName: v.optional(TableName),
  sysctl: v.optional(v.boolean()),
});

/** A request for an Intent; every field is optional. */
export type IntentRequest = v.InferOutput<typeof RequestSchema>;
/** A backend as it is asked for. */
export type BackendRequest = NonNullable<IntentRequest["backends"]>[number];

function isCidr(input: unknown): input is Cidr {
  const { family, bytes, prefix } = (input ?? {}) as Partial<Cidr>;
  if ((family !== 4 && family !== 6) || !(bytes instanceof Uint8Array)) return false;
  const bits = addressBits(family);
  if (bytes.length * 8 !== bits || !Number.isInteger(prefix)) return false;
  if (prefix === undefined || prefix < 0 || prefix > bits) return false;
  return !hasHostBits(bytes, prefix);
}

/** An address without a zone, which no rule could carry. */
function isAddress(input: unknown): input is Address {
  const { family, bytes, zone } = (input ?? {}) as Partial<Address>;
  if ((family !== 4 && family !== 6) || !(bytes instanceof Uint8Array)) return false;
  return bytes.length * 8 === addressBits(family) && zone === undefined;
}
