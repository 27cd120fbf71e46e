/**
 * A kernel of rules, routes and nf_tables in memory, behind the same two channels as the real one:
 * to try what no kernel does on demand, such as to fail at the third request, to end its process in
 * the midst of a change, or to know no table owners.
 */

import { EAFNOSUPPORT, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM } from "../../ffi/errno.ts";
import * as nl from "../../ffi/netlink/constants.ts";
import { nftAttributes, nftMessage } from "../../ffi/netlink/nftables/batch.ts";
import { type Chain, decodeChain, newChain } from "../../ffi/netlink/nftables/chain.ts";
import {
  decodeFirewallRule,
  type FirewallRule,
  newFirewallRule,
} from "../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  type NamedSet,
  newElements,
  newSet,
  type SetElement,
} from "../../ffi/netlink/nftables/set.ts";
import { decodeTable, type Table } from "../../ffi/netlink/nftables/table.ts";
import { decodeRoute, newRoute, type Route } from "../../ffi/netlink/route.ts";
import { decodeRule, newRule, type Rule } from "../../ffi/netlink/rule.ts";
import { NetlinkError } from "../../ffi/netlink/socket.ts";
import type { Message } from "../../ffi/netlink/wire.ts";
import type { Fd } from "../../ffi/types.ts";
import { isSameRoute, isSameRule } from "../../src/capture/live/canonical.ts";
import { nftType, setOf } from "../../src/capture/live/desired-state.ts";
import type { Channel, Kernel } from "../../src/capture/live/kernel.ts";

interface StoredTable {
  table: Table;
  chains: Chain[];
  rules: FirewallRule[];
  sets: (NamedSet & { elements: SetElement[] })[];
}

export interface FakeOptions {
  /** Which change (from 0) fails, and with which errno. */
  readonly failAt?: number;
  readonly errno?: number;
  /** Before which change the process ends: that one and all later ones do not happen. */
  readonly killAt?: number;
  /** NFT_TABLE_F_OWNER is refused, as before Linux 5.12. */
  readonly noOwner?: boolean;
  /** NFT_TABLE_F_PERSIST is refused, as before Linux 6.9. */
  readonly noPersist?: boolean;
  /** There is no IPv6. */
  readonly noIpv6?: boolean;
}

/** What a fake kernel throws once its process has ended. */
export class Killed extends Error {}

const ownPort = 4711;

export class FakeKernel implements Kernel {
  rules: Rule[] = [];
  routes: Route[] = [];
  tables: StoredTable[] = [];
  /** How many changes have been asked for. */
  changes = 0;
  options: FakeOptions = {};

  readonly route: Channel = this.channel((message) => this.change(message));
  readonly legacy = () => [];
  readonly netfilter: Channel = this.channel(() => {
    throw new Error("an nf_tables request outside a batch");
  });

  close(): void {}

  /** The process has ended: what it owned is gone. */
  end(): void {
    this.tables = this.tables.flatMap((each) => {
      const { owner, flags = 0, ...table } = each.table;
      if (owner === undefined) return [each];
      if ((flags & nl.NFT_TABLE_F_PERSIST) === 0) return [];
      return [{ ...each, table: { ...table, flags: nl.NFT_TABLE_F_PERSIST } }];
    });
    this.options = {};
  }

  /** All that is there, as text to compare. */
  dump(): string {
    const tables = this.tables.toSorted((a, b) => (a.table.name < b.table.name ? -1 : 1));
    const lines = [this.rules, this.routes].map((all) => all.map((each) => show(each)).sort());
    return [...lines.flat(), ...tables.map((each) => show(each))].join("\n");
  }

  private channel(request: (message: Message) => void): Channel {
    return {
      fd: -1 as Fd,
      drain: () => {},
      portId: ownPort,
      request: (message) => {
        this.count(message);
        request(message);
        return [];
      },
      get: () => {
        throw new Error("a look-up of the fake kernel");
      },
      dump: (message, decode) => this.list(message).map(decode),
      batch: (messages) => {
        const [first] = messages;
        if (first !== undefined) this.count(first);
        const before = structuredClone(this.tables);
        try {
          for (const message of messages) this.changeFirewall(message);
        } catch (error) {
          this.tables = before;
          throw error;
        }
        return [];
      },
    };
  }

  private count({ operation }: Message): void {
    const { failAt, killAt, errno = EPERM } = this.options;
    const change = this.changes++;
    if (killAt !== undefined && change >= killAt) throw new Killed();
    if (change === failAt) throw new NetlinkError(operation, { errno });
  }

  private change(message: Message): void {
    const fail = (errno: number): never => {
      throw new NetlinkError(message.operation, { errno });
    };
    if (message.type === nl.RTM_NEWRULE || message.type === nl.RTM_DELRULE) {
      const rule = decodeRule(message.body);
      const at = this.rules.findIndex((each) => isSameRule(rule, each));
      if (message.type === nl.RTM_DELRULE) at < 0 ? fail(ENOENT) : this.rules.splice(at, 1);
      else if (at >= 0) fail(EEXIST);
      else this.rules.push({ priority: 32765, ...rule });
      return;
    }
    const route = decodeRoute(message.body);
    const at = this.routes.findIndex((each) => isSameRoute(route, each));
    if (message.type === nl.RTM_DELROUTE) at < 0 ? fail(3) : this.routes.splice(at, 1);
    else if (at >= 0) fail(EEXIST);
    else this.routes.push(route);
  }

  private changeFirewall(message: Message): void {
    const fail = (errno: number): never => {
      throw new NetlinkError(message.operation, { errno });
    };
    const type = nftType(message);
    const { family, attributes } = nftAttributes(message.body);
    const name = attributes.string(nl.NFTA_TABLE_NAME);
    const found = this.tables.find((each) => each.table.name === name);
    if (type === nl.NFT_MSG_NEWTABLE) {
      const table = decodeTable(message.body);
      const owned = ((table.flags ?? 0) & nl.NFT_TABLE_F_OWNER) !== 0;
      if (found !== undefined) fail(EEXIST);
      if (owned && this.options.noOwner) fail(EINVAL);
      const persists = ((table.flags ?? 0) & nl.NFT_TABLE_F_PERSIST) !== 0;
      if (persists && this.options.noPersist) fail(EOPNOTSUPP);
      const stored = owned ? { ...table, owner: ownPort } : table;
      this.tables.push({ table: { ...stored, family }, chains: [], rules: [], sets: [] });
    } else if (found === undefined) fail(ENOENT);
    else if (found.table.owner !== undefined && found.table.owner !== ownPort) fail(EPERM);
    else if (type === nl.NFT_MSG_DELTABLE) this.tables.splice(this.tables.indexOf(found), 1);
    else fill(found, message);
  }

  private list({ type, body }: Message): Uint8Array[] {
    const all = this.tables;
    const [family = 0] = body;
    if (family === 10 && this.options.noIpv6) {
      throw new NetlinkError("dump", {
        errno: type === nl.RTM_GETRULE ? EAFNOSUPPORT : EOPNOTSUPP,
      });
    }
    switch (type) {
      case nl.RTM_GETLINK:
        return [];
      case nl.RTM_GETRULE:
        return this.rules.filter((rule) => rule.family === family).map((r) => newRule(r).body);
      case nl.RTM_GETROUTE: {
        const { table, protocol } = decodeRoute(body);
        return this.routes
          .filter((route) => route.family === family)
          .filter((route) => table === 0 || route.table === table)
          .filter((route) => protocol === 0 || route.protocol === protocol)
          .map((route) => newRoute(route).body);
      }
    }
    const name = nftAttributes(body).attributes.string(1);
    const within = all.find(({ table }) => table.name === name);
    const second = nftAttributes(body).attributes.string(2);
    switch (nftType({ type })) {
      case nl.NFT_MSG_GETTABLE:
        return all.map(({ table }) => tableBody(table));
      case nl.NFT_MSG_GETCHAIN:
        return all.flatMap(({ chains }) => chains.map((chain) => newChain(chain).body));
      case nl.NFT_MSG_GETRULE:
        return (within?.rules ?? [])
          .filter(({ chain }) => chain === second)
          .map((rule) => newFirewallRule(rule).body);
      case nl.NFT_MSG_GETSET:
        return (within?.sets ?? []).map((set) => newSet(set).body);
      case nl.NFT_MSG_GETSETELEM:
        return (within?.sets ?? [])
          .filter((set) => set.name === second)
          .flatMap((set) => newElements(set, set.elements).map((message) => message.body));
    }
    throw new Error(`a dump of type ${type}`);
  }
}

/** Sets get the names that the kernel gives them, and rules tell of these and of no ids. */
function fill(stored: StoredTable, message: Message): void {
  switch (nftType(message)) {
    case nl.NFT_MSG_NEWCHAIN:
      stored.chains.push(decodeChain(message.body));
      return;
    case nl.NFT_MSG_NEWSET: {
      const set = decodeSet(message.body);
      const named = set.name.replace("%d", String(stored.sets.length));
      stored.sets.push({ ...set, name: named, elements: [] });
      return;
    }
    case nl.NFT_MSG_NEWSETELEM:
      setOf(message, stored.sets)?.elements.push(...decodeElements(message.body));
      return;
    case nl.NFT_MSG_NEWRULE: {
      const rule = decodeFirewallRule(message.body);
      const expressions = rule.expressions.map((each) => {
        if (each.kind !== "lookup" || each.setId === undefined) return each;
        const { setId, ...rest } = each;
        const set = stored.sets.find(({ id }) => id === setId);
        return { ...rest, set: set?.name ?? each.set };
      });
      stored.rules.push({ ...rule, expressions });
      return;
    }
    default:
      throw new Error(message.operation);
  }
}

function tableBody(table: Table): Uint8Array {
  const { family, name, flags = 0, owner } = table;
  return nftMessage("NFT_MSG_NEWTABLE", nl.NFT_MSG_NEWTABLE, 0, family, (to) => {
    to.cstring(nl.NFTA_TABLE_NAME, name);
    to.be32(nl.NFTA_TABLE_FLAGS, flags);
    if (owner !== undefined) to.be32(nl.NFTA_TABLE_OWNER, owner);
  }).body;
}

function show(value: unknown): string {
  return JSON.stringify(value, (_, member) => {
    if (typeof member === "bigint") return String(member);
    return member instanceof Uint8Array ? Buffer.from(member).toString("hex") : member;
  });
}
