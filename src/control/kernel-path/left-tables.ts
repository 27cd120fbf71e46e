/** Tables of the kernel path that a process has left behind: to be adopted, replaced or removed. */

import { NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import { fromHostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import { decodeTable, dumpTables, type Table } from "../../../ffi/netlink/nftables/table.ts";
import type { Port } from "../../../ffi/types.ts";
import {
  decodeIdentity,
  isSameServices,
  type PathIdentity,
} from "../../capture/kernel-path/identity.ts";
import { endpointKey } from "../../capture/kernel-path/intent.ts";
import { readCurrentState } from "../../capture/live/current-state.ts";
import type { FilledSet, TableContents } from "../../capture/live/desired-state.ts";
import { isSameFirewall } from "../../capture/live/differences.ts";
import type { Kernel } from "../../capture/live/kernel.ts";
import { leftTables } from "../../capture/live/left-tables.ts";
import { closedSuffix, setupOf } from "../../capture/live/names.ts";
import type { FlowEndpoint, FlowObject } from "../../capture/plan/flow-rule.ts";
import type { Family } from "../../net/address.ts";
import type { Slots } from "./slots.ts";

/** A set-up whose process has ended. */
export interface LeftPath {
  readonly name: string;
  readonly identity: PathIdentity;
  /** Its table and the one behind it, as far as they are there. */
  readonly tables: readonly Table[];
  /** What is in its own table; undefined: only the one behind it is left. */
  readonly contents: TableContents | undefined;
  readonly services: readonly LeftService[];
}

/** A service in it. */
export interface LeftService {
  /** Undefined: the only one. */
  readonly name: string | undefined;
  readonly number: number;
  /** The families that it takes. */
  readonly pools: readonly { readonly family: Family }[];
  /** What its slots lead to. */
  readonly slots: ReadonlyMap<Family, Slots>;
}

/** All that are left; those of running processes have an owner. @throws SyscallError */
export function leftPaths(kernel: Kernel): LeftPath[] {
  const all = kernel.netfilter
    .dump(dumpTables(NFPROTO_INET), decodeTable)
    .filter(({ family }) => family === NFPROTO_INET);
  const setups = Map.groupBy(leftTables(all), ({ name }) => setupOf(name));
  return [...setups].flatMap(([name, tables]): LeftPath[] => {
    const [identity] = tables.flatMap(({ userData }) => decodeIdentity(userData) ?? []);
    if (identity === undefined) return [];
    const selector = { tables: [], tag: undefined, name };
    const contents = readCurrentState(kernel, selector).firewall;
    const services = contents === undefined ? [] : servicesOf(contents);
    return [{ name, identity, tables, contents, services }];
  });
}

/** A left table in words. */
export function leftText({ name, contents }: LeftPath): string {
  return contents === undefined
    ? `the firewall table inet ${name}${closedSuffix}, which a process has left,`
    : `the firewall table inet ${name}, which a process has left in force,`;
}

/** Whether a process that listens at these has left it, or one with a table of this name. */
export function isPredecessor(
  { name, identity }: LeftPath,
  { listeners, tableName }: { readonly listeners: readonly string[]; readonly tableName?: string },
): boolean {
  return name === tableName || isSameServices(identity, listeners);
}

/** The services of a table, from the rules that choose a slot. */
function servicesOf({ chains, sets }: TableContents): LeftService[] {
  const found = new Map<number, { name: string | undefined; slots: Map<Family, Slots> }>();
  for (const { comment = "", expressions } of chains.flatMap(({ rules }) => rules)) {
    const [, name] = /^[^:]*: upstream(?: (.*))?$/.exec(comment) ?? [];
    for (const each of expressions) {
      const set = each.kind === "lookup" ? each.set : "";
      const [, family, number] = /^slots([46])_(\d+)$/.exec(set) ?? [];
      if (family === undefined) continue;
      const service = found.get(Number(number)) ?? { name, slots: new Map<Family, Slots>() };
      found.set(Number(number), service);
      const filled = sets.find((one) => one.name === set);
      if (filled !== undefined) service.slots.set(Number(family) as Family, slotsIn(filled));
    }
  }
  return [...found].map(([number, { name, slots }]) => ({
    ...{ name, number, slots },
    pools: [...slots.keys()].map((family) => ({ family })),
  }));
}

function slotsIn({ elements }: FilledSet): Slots {
  const slots: (string | undefined)[] = [];
  for (const { key, data } of elements) {
    if (data !== undefined) slots[fromHostOrder32(key)] = endpointKey(endpointIn(data));
  }
  return slots;
}

/** The address and port of an element, whose last part takes a whole word. */
function endpointIn(bytes: Uint8Array): FlowEndpoint {
  const address = bytes.slice(0, bytes.length - 4);
  const [high = 0, low = 0] = bytes.subarray(address.length);
  const family = address.length === 4 ? 4 : 6;
  return { address: { family, bytes: address }, port: ((high << 8) | low) as Port };
}

/**
 * The objects of a left table that differ from `wanted` in nothing but what is in their maps and
 * sets of upstreams, as they are now; undefined where rules differ, or anybody has changed them.
 */
export function currentObjects(
  contents: TableContents,
  wanted: TableContents,
  objects: readonly FlowObject[],
): readonly FlowObject[] | undefined {
  const sets = new Map(contents.sets.map((each) => [each.name, each]));
  const filled = wanted.sets.map((each) => {
    const elements = isOfUpstreams(each.name, objects) ? sets.get(each.name)?.elements : undefined;
    return elements === undefined ? each : { ...each, elements };
  });
  if (!isSameFirewall({ ...wanted, sets: filled }, contents)) return undefined;
  return objects.map((each) => {
    const set = sets.get(each.name);
    if (set === undefined) return each;
    if (each.kind === "endpoints") {
      return { ...each, endpoints: set.elements.map(({ key }) => endpointIn(key)) };
    }
    if (each.kind !== "slots") return each;
    const slots: (FlowEndpoint | undefined)[] = each.slots.map(() => undefined);
    for (const { key, data } of set.elements) {
      if (data !== undefined) slots[fromHostOrder32(key)] = endpointIn(data);
    }
    return { ...each, slots };
  });
}

function isOfUpstreams(name: string, objects: readonly FlowObject[]): boolean {
  return objects.some((each) => {
    return each.name === name && (each.kind === "slots" || each.kind === "endpoints");
  });
}
