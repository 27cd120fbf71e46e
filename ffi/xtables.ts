/**
 * The rules of iptables' older kind (x_tables), read as iptables-legacy(8) does: a table is one
 * block of getsockopt(2). Structures: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h,
 * linux/netfilter_ipv6/ip6_tables.h, in host order.
 */

import {
  AF_INET,
  AF_INET6,
  IPPROTO_IP,
  IPPROTO_IPV6,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
} from "./constants.ts";
import { errno, libc } from "./libc.ts";
import { allocate } from "./memory.ts";
import { HOST_ORDER } from "./netlink/wire.ts";
import * as sys from "./sys.ts";
import {
  IPT_SO_GET_ENTRIES,
  IPT_SO_GET_INFO,
  ip6t_entry,
  ipt_entry,
  xt_entry_match,
} from "./xtables-constants.ts";

/** A target or a match of a rule: its name, its revision and its own structure. */
export interface Extension {
  readonly name: string;
  readonly revision: number;
  readonly info: Uint8Array;
}

/** A rule of a table. Jumps to chains and built-in verdicts have the name "". */
export interface LegacyRule {
  readonly family: typeof AF_INET | typeof AF_INET6;
  readonly table: string;
  readonly matches: readonly Extension[];
  readonly target: Extension;
}

// The options of IPv6 have the same numbers as IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES.
const nameBytes = 32;
/**
 * `struct ipt_getinfo`, and where it has the hooks, where the chain of each begins and where the
 * entry with its policy is, and the size of all entries.
 */
const infoBytes = 84;
const infoHooksAt = 32;
const infoChainsAt = 36;
const infoPoliciesAt = 56;
const infoSizeAt = 80;
const hooksCount = 5;
/** `struct ipt_get_entries`: name, size, and the entries, aligned to 8. */
const entriesAt = 40;
/** Tables with more than this are not read: 64 MB, as many rules as nobody has. */
const tableBytesMax = 64 * 1024 * 1024;

const levels = { [AF_INET]: IPPROTO_IP, [AF_INET6]: IPPROTO_IPV6 } as const;
const entryLayouts = { [AF_INET]: ipt_entry, [AF_INET6]: ip6t_entry } as const;

/** A table as the kernel keeps it. */
export interface LegacyBlock {
  /** A bit for each NF_INET_* that the table is registered at. */
  readonly hooks: number;
  /** By NF_INET_*: the offset of its chain, and of the entry with its policy, which ends it. */
  readonly chains: readonly number[];
  readonly policies: readonly number[];
  /** The entries, one behind the other. */
  readonly entries: Uint8Array;
}

/** The rules of a table, as `readLegacyBlock` has them. */
export function readLegacyTable(
  family: typeof AF_INET | typeof AF_INET6,
  table: string,
): LegacyRule[] | undefined {
  const block = readLegacyBlock(family, table);
  return block && decodeEntries(family, table, block.entries);
}

/**
 * A table that is there already: to ask for another one would load its module. Undefined if the
 * kernel does not report it, as without CAP_NET_ADMIN.
 */
export function readLegacyBlock(
  family: typeof AF_INET | typeof AF_INET6,
  table: string,
): LegacyBlock | undefined {
  const level = levels[family];
  const fd = sys.socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return undefined;
  try {
    const info = ask(fd, level, IPT_SO_GET_INFO, table, infoBytes);
    const size = info?.view.getUint32(infoSizeAt, HOST_ORDER) ?? 0;
    if (info === undefined || size === 0 || size > tableBytesMax) return undefined;
    const block = ask(fd, level, IPT_SO_GET_ENTRIES, table, entriesAt + size, size);
    const words = (at: number) =>
      Array.from({ length: hooksCount }, (_, i) => info.view.getUint32(at + 4 * i, HOST_ORDER));
    return (
      block && {
        hooks: info.view.getUint32(infoHooksAt, HOST_ORDER),
        chains: words(infoChainsAt),
        policies: words(infoPoliciesAt),
        entries: block.bytes.subarray(entriesAt),
      }
    );
  } finally {
    sys.close(fd);
  }
}

/** The bytes that getsockopt(2) fills in behind the table's name; undefined on an error. */
function ask(fd: number, level: number, option: number, table: string, bytes: number, size = 0) {
  const block = allocate(bytes);
  const length = allocate(4);
  block.bytes.set(new TextEncoder().encode(table).subarray(0, nameBytes - 1));
  block.view.setUint32(nameBytes, size, HOST_ORDER);
  length.view.setUint32(0, bytes, HOST_ORDER);
  const result = libc.getsockopt(fd, level, option, block.address, length.address);
  return result < 0 && errno() !== 0 ? undefined : block;
}

/** Decodes the entries of a table, in their order. What is malformed ends it. */
function decodeEntries(
  family: typeof AF_INET | typeof AF_INET6,
  table: string,
  bytes: Uint8Array,
): LegacyRule[] {
  const layout = entryLayouts[family];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const rules: LegacyRule[] = [];
  for (let at = 0; at + layout.size <= bytes.length; ) {
    const target = at + view.getUint16(at + layout.target_offset, HOST_ORDER);
    const next = at + view.getUint16(at + layout.next_offset, HOST_ORDER);
    if (next <= at || target + xt_entry_match.size > next || next > bytes.length) break;
    const matches = extensions(bytes, at + layout.size, target);
    const [own] = extensions(bytes, target, next);
    if (own !== undefined) rules.push({ family, table, matches, target: own });
    at = next;
  }
  return rules;
}

function extensions(bytes: Uint8Array, from: number, to: number): Extension[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: Extension[] = [];
  for (let at = from; at + xt_entry_match.size <= to; ) {
    const size = view.getUint16(at, HOST_ORDER);
    if (size < xt_entry_match.size || at + size > to) break;
    const name = new TextDecoder("latin1").decode(
      bytes.subarray(at + xt_entry_match.name, at + xt_entry_match.revision),
    );
    found.push({
      name: name.slice(0, Math.max(0, name.indexOf("\0"))),
      revision: bytes[at + xt_entry_match.revision] as number,
      info: bytes.slice(at + xt_entry_match.size, at + size),
    });
    at += size;
  }
  return found;
}
