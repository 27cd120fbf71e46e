/**
 * A table of iptables' older kind as the kernel keeps it (struct ipt_entry, struct ip6t_entry), in
 * the form of nf_tables' chains, so that one evaluator reads both. Pure. Host order and the layout
 * of 64-bit kernels; sources: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h.
 */

import {
  NF_ACCEPT,
  NF_DROP,
  NF_IP_PRI_FILTER,
  NF_IP_PRI_MANGLE,
  NF_IP_PRI_NAT_DST,
  NF_IP_PRI_NAT_SRC,
  NF_IP_PRI_RAW,
  NF_IP_PRI_SECURITY,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_GOTO,
  NFT_JUMP,
  NFT_RETURN,
} from "../../../ffi/netlink/constants.ts";
import { bitwise } from "../../../ffi/netlink/nftables/expr/bitwise.ts";
import { compare, NFT_CMP_EQ, NFT_CMP_NEQ } from "../../../ffi/netlink/nftables/expr/cmp.ts";
import { verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import {
  meta,
  NFT_META_IIFNAME,
  NFT_META_L4PROTO,
  NFT_META_OIFNAME,
} from "../../../ffi/netlink/nftables/expr/meta.ts";
import { NFT_PAYLOAD_NETWORK_HEADER, payload } from "../../../ffi/netlink/nftables/expr/payload.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { HOST_ORDER } from "../../../ffi/netlink/wire.ts";
import type { LegacyBlock } from "../../../ffi/xtables.ts";
import {
  IP6T_F_GOTO,
  IPT_F_FRAG,
  IPT_F_GOTO,
  IPT_INV_DSTIP,
  IPT_INV_FRAG,
  IPT_INV_SRCIP,
  IPT_INV_VIA_IN,
  IPT_INV_VIA_OUT,
  ip6t_entry,
  ip6t_ip6,
  ipt_entry,
  ipt_ip,
  XT_ERROR_TARGET,
  XT_INV_PROTO,
  XT_RETURN,
  xt_entry_match,
} from "../../../ffi/xtables-constants.ts";
import type { Family } from "../../net/address.ts";
import type { RuledChain } from "./ruleset.ts";

interface Layout {
  readonly addressLength: number;
  /** Offsets of `struct ipt_ip` and `ip6t_ip6`, with which an entry begins. */
  readonly ip: Readonly<Record<keyof typeof ipt_ip, number>>;
  readonly entry: Readonly<Record<keyof typeof ipt_entry, number>>;
  readonly goto: number;
}

const layouts: Readonly<Record<Family, Layout>> = {
  4: { addressLength: 4, ip: ipt_ip, entry: ipt_entry, goto: IPT_F_GOTO },
  6: { addressLength: 16, ip: ip6t_ip6, entry: ip6t_entry, goto: IP6T_F_GOTO },
};

/** Bytes of an extension's name. */
const nameLength = xt_entry_match.revision - xt_entry_match.name;

const hookNames = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/** enum nf_ip_hook_priorities, by table; those of nat depend on the hook. */
const priorities: Readonly<Record<string, number>> = {
  raw: NF_IP_PRI_RAW,
  mangle: NF_IP_PRI_MANGLE,
  filter: NF_IP_PRI_FILTER,
  security: NF_IP_PRI_SECURITY,
};
const natPriorities = [
  ...[NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC, 0],
  ...[NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC],
];

/** The chains of a table. @throws RangeError for entries that make no sense */
export function legacyChains(family: Family, table: string, block: LegacyBlock): RuledChain[] {
  const { chains, policies, hooks } = block;
  const nfproto = family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
  const reader = new Reader(family, table, block.entries);
  const base = { family: nfproto, table, isLegacy: true as const };
  const builtIn = hookNames.flatMap((name, hook): RuledChain[] => {
    if ((hooks & (1 << hook)) === 0) return [];
    const [from = 0, end = 0] = [chains[hook], policies[hook]];
    const priority = table === "nat" ? natPriorities[hook] : priorities[table];
    const isRouting = table === "mangle" && name === "OUTPUT";
    const type = table === "nat" ? "nat" : isRouting ? "route" : "filter";
    const policy = reader.verdictAt(end) === NF_DROP ? NF_DROP : NF_ACCEPT;
    const at = { type, hook, priority: priority ?? 0, policy };
    return [{ ...base, name, base: at, rules: reader.rules(name, from, end) }];
  });
  const own = reader.userChains().map(({ name, from, end }): RuledChain => {
    return { ...base, name, rules: reader.rules(name, from, end) };
  });
  return [...builtIn, ...own];
}

class Reader {
  private readonly family: Family;
  private readonly table: string;
  private readonly blob: Uint8Array;
  private readonly view: DataView;
  private readonly layout: Layout;
  private chainNames: ReadonlyMap<number, string> | undefined;

  constructor(family: Family, table: string, blob: Uint8Array) {
    this.family = family;
    this.table = table;
    this.blob = blob;
    this.view = new DataView(blob.buffer, blob.byteOffset, blob.length);
    this.layout = layouts[family];
  }

  /** Chains of the user's: each begins after an entry with the target ERROR that names it. */
  userChains(): { name: string; from: number; end: number }[] {
    const heads: { name: string; at: number; from: number }[] = [];
    for (let at = 0; at < this.blob.length; at = this.next(at)) {
      const target = at + this.targetOffset(at);
      if (this.text(target + xt_entry_match.name, nameLength) !== XT_ERROR_TARGET) continue;
      heads.push({ name: this.text(target + xt_entry_match.size, 30), at, from: this.next(at) });
    }
    // The last one ends the table.
    return heads.slice(0, -1).map(({ name, from }, i) => {
      return { name, from, end: heads[i + 1]?.at ?? this.blob.length };
    });
  }

  rules(chain: string, from: number, end: number): FirewallRule[] {
    this.chainNames ??= new Map(this.userChains().map((each) => [each.from, each.name]));
    const family = this.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
    const rules: FirewallRule[] = [];
    for (let at = from; at < end; at = this.next(at)) {
      const expressions = [...this.header(at), ...this.matches(at), ...this.target(at)];
      const handle = BigInt(rules.length + 1);
      rules.push({ family, table: this.table, chain, handle, expressions });
    }
    return rules;
  }

  /** The verdict of a standard target; undefined for a jump or another target. */
  verdictAt(at: number): number | undefined {
    const target = at + this.targetOffset(at);
    if (this.text(target + xt_entry_match.name, nameLength) !== "") return undefined;
    const value = this.view.getInt32(target + xt_entry_match.size, HOST_ORDER);
    if (value === XT_RETURN) return NFT_RETURN;
    return value < 0 ? -value - 1 : undefined;
  }

  private targetOffset(at: number): number {
    return this.view.getUint16(at + this.layout.entry.target_offset, HOST_ORDER);
  }

  private next(at: number): number {
    const length = this.view.getUint16(at + this.layout.entry.next_offset, HOST_ORDER);
    if (length < this.layout.entry.size) throw new RangeError(`an entry of ${length} bytes`);
    return at + length;
  }

  private text(at: number, length: number): string {
    const bytes = this.blob.subarray(at, at + length);
    const end = bytes.indexOf(0);
    return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString("latin1");
  }

  /** The conditions of `struct ipt_ip`: addresses, interfaces, protocol, fragments. */
  private header(at: number): Expression[] {
    const { addressLength: width, ip } = this.layout;
    const invert = this.view.getUint8(at + ip.invflags);
    const op = (flag: number) => ((invert & flag) === 0 ? NFT_CMP_EQ : NFT_CMP_NEQ);
    const bytes = (offset: number, length: number) =>
      this.blob.slice(at + offset, at + offset + length);
    const address = (side: 0 | 1, flag: number): Expression[] => {
      const mask = bytes(width * (2 + side), width);
      if (mask.every((byte) => byte === 0)) return [];
      const header = (this.family === 4 ? 12 : 8) + side * width;
      return [
        payload(NFT_PAYLOAD_NETWORK_HEADER, header, width),
        bitwise(mask, new Uint8Array(width)),
        compare(bytes(width * side, width), op(flag)),
      ];
    };
    const device = (side: 0 | 1, key: number, flag: number): Expression[] => {
      const names = ip.iniface;
      const length = bytes(names + 32 + 16 * side, 16).filter((byte) => byte !== 0).length;
      if (length === 0) return [];
      return [meta(key), compare(bytes(names + 16 * side, length), op(flag))];
    };
    const number = this.view.getUint16(at + ip.proto, HOST_ORDER);
    const isFragment = this.family === 4 && (this.view.getUint8(at + ip.flags) & IPT_F_FRAG) !== 0;
    return [
      ...address(0, IPT_INV_SRCIP),
      ...address(1, IPT_INV_DSTIP),
      ...device(0, NFT_META_IIFNAME, IPT_INV_VIA_IN),
      ...device(1, NFT_META_OIFNAME, IPT_INV_VIA_OUT),
      ...(number === 0
        ? []
        : [meta(NFT_META_L4PROTO), compare(Uint8Array.of(number), op(XT_INV_PROTO))]),
      ...(isFragment
        ? [
            payload(NFT_PAYLOAD_NETWORK_HEADER, 6, 2),
            bitwise(Uint8Array.of(0x1f, 0xff), new Uint8Array(2)),
            compare(new Uint8Array(2), (invert & IPT_INV_FRAG) === 0 ? NFT_CMP_NEQ : NFT_CMP_EQ),
          ]
        : []),
    ];
  }

  private matches(at: number): Expression[] {
    const found: Expression[] = [];
    const end = at + this.targetOffset(at);
    for (let match = at + this.layout.entry.size; match < end; ) {
      const size = this.view.getUint16(match, HOST_ORDER);
      if (size < xt_entry_match.size) throw new RangeError(`a match of ${size} bytes`);
      found.push(this.extension("match", match, size));
      match += size;
    }
    return found;
  }

  private target(at: number): Expression[] {
    const target = at + this.targetOffset(at);
    const size = this.view.getUint16(target, HOST_ORDER);
    const name = this.text(target + xt_entry_match.name, nameLength);
    if (name !== "") return [this.extension("target", target, size)];
    const code = this.verdictAt(at);
    if (code !== undefined) return [verdict(code)];
    const to = this.view.getInt32(target + xt_entry_match.size, HOST_ORDER);
    const chain = this.chainNames?.get(to);
    // A rule without a target jumps to the one behind it.
    if (chain === undefined) return [];
    const goes = (this.view.getUint8(at + this.layout.ip.flags) & this.layout.goto) !== 0;
    return [verdict(goes ? NFT_GOTO : NFT_JUMP, chain)];
  }

  private extension(kind: "match" | "target", at: number, size: number): Expression {
    const name = this.text(at + xt_entry_match.name, nameLength);
    const revision = this.view.getUint8(at + xt_entry_match.revision);
    return { kind, name, revision, info: this.blob.slice(at + xt_entry_match.size, at + size) };
  }
}
