/**
 * How firewall rules change the marks of packets and connections. Rules of other programs may set
 * the bits that identify our packets. Pure.
 *
 * A rule of nf_tables is run with what its registers may hold: a constant, the mark or the
 * connection's mark with some bits kept and others flipped, or something unknown. Targets of
 * iptables are read from their structures (linux/netfilter/xt_mark.h, xt_connmark.h, xt_TPROXY.h).
 */

import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { NFT_CT_MARK } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { NFT_META_MARK } from "../../../ffi/netlink/nftables/expr/meta.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { fromHostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { HOST_ORDER } from "../../../ffi/netlink/wire.ts";
import type { Extension, LegacyRule } from "../../../ffi/xtables.ts";
import { XT_CONNMARK_SAVE, XT_CONNMARK_SET } from "../../../ffi/xtables-constants.ts";
import type { Family } from "../../net/address.ts";
import { formatMark, fullMask, type MaskedMark } from "../../net/mark.ts";
import { familyName } from "./describe.ts";

/** A write of a rule. */
export interface MarkWrite {
  /** The rule's place, for people: `table ip mangle chain PREROUTING`. */
  readonly where: string;
  readonly families: readonly Family[];
  /** The packet's mark, or the connection's (conntrack), which others may give to packets. */
  readonly to: "packet" | "connection";
  /** Bits that become those of `value`; undefined: their result is unknown. */
  readonly mask: number;
  readonly value: number | undefined;
  /** Bits that are taken from the other mark: a connection's is restored, or a packet's saved. */
  readonly copied: number;
}

/** Which bits stay, and which are then flipped, of the mark that is named; or a constant. */
type Bits =
  | { readonly of: "packet" | "connection"; readonly keep: number; readonly flip: number }
  | { readonly of: "constant"; readonly keep: 0; readonly flip: number };

/** The rule's writes, in its order. */
export function markWrites(rule: FirewallRule): MarkWrite[] {
  const registers = new Map<number, Bits>();
  const place = { where: placeOf(rule), families: familiesOf(rule.family) };
  return rule.expressions.flatMap((each) => {
    const written = run(each, registers);
    return written === undefined ? [] : [{ ...place, ...written }];
  });
}

/** The same of a rule of iptables-legacy. */
export function legacyMarkWrites(rule: LegacyRule): MarkWrite[] {
  const isV6 = rule.family === AF_INET6;
  const written = targetWrite(rule.target);
  if (written === undefined) return [];
  const where = `${isV6 ? "ip6tables" : "iptables"}-legacy table ${rule.table}`;
  return [{ where, families: [isV6 ? 6 : 4], ...written }];
}

/** Whether the rule has a comment of tproxy. */
export function isOurRule(comment: string | undefined): boolean {
  return comment?.startsWith("tproxyd") === true && comment.includes(": ");
}

/** The comment of a rule that iptables made, of either kind. */
export function xtComment(matches: readonly Extension[]): string | undefined {
  const info = matches.find(({ name }) => name === "comment")?.info;
  return info && new TextDecoder("latin1").decode(info).replace(/\0.*$/s, "");
}

/** The matches of iptables among the expressions of nf_tables (nft_compat.c). */
export function compatMatches(expressions: readonly Expression[]): readonly Extension[] {
  return expressions.filter((each) => each.kind === "match");
}

/**
 * Returns the rules that give packets of these families bits of `mark`, each as the object of
 * "shares bits with".
 * One that replaces all bits, made without a thought of others, counts if it makes just `mark`.
 */
export function foreignMarks(
  mark: MaskedMark,
  families: readonly Family[],
  writes: readonly MarkWrite[],
): string[] {
  const own = writes.filter((write) => write.families.some((each) => families.includes(each)));
  const takes = ({ mask, value, copied }: MarkWrite) => {
    const bits = (mask & mark.mask) >>> 0;
    if (value === undefined || bits === 0) return false;
    if ((mask | copied) >>> 0 !== fullMask) return true;
    return copied === 0 && (value & mark.mask) >>> 0 === mark.value;
  };
  const restores = own.some(
    ({ to, copied }) => to === "packet" && (copied & mark.mask) >>> 0 !== 0,
  );
  const taken = own.filter((write) => (write.to === "packet" || restores) && takes(write));
  return [...new Set(taken.map(textOf))];
}

function textOf({ where, to, mask, value }: MarkWrite): string {
  const text = formatMark({ value: (value ?? 0) as MaskedMark["value"], mask });
  const whose = to === "packet" ? "the mark" : "the connection's mark, which is restored, to";
  return `a firewall rule of others (${where}), which sets ${whose} ${text}`;
}

type Written = Pick<MarkWrite, "to" | "mask" | "value" | "copied">;

function run(expression: Expression, registers: Map<number, Bits>): Written | undefined {
  switch (expression.kind) {
    case "immediate":
      registers.set(expression.dreg, constant(expression.data));
      return undefined;
    case "meta":
      load(registers, expression.dreg, expression.key === NFT_META_MARK ? "packet" : undefined);
      return undefined;
    case "ct":
      load(registers, expression.dreg, expression.key === NFT_CT_MARK ? "connection" : undefined);
      return undefined;
    case "bitwise": {
      const before = registers.get(expression.sreg);
      registers.delete(expression.dreg);
      if (before === undefined || expression.mask.length !== 4) return undefined;
      const [mask, xor] = [fromHostOrder32(expression.mask), fromHostOrder32(expression.xor)];
      const keep = (before.keep & mask) >>> 0;
      const flip = ((before.flip & mask) ^ xor) >>> 0;
      registers.set(expression.dreg, { ...before, keep, flip } as Bits);
      return undefined;
    }
    case "meta set":
      if (expression.key !== NFT_META_MARK) return undefined;
      return write("packet", registers.get(expression.sreg));
    case "ct set":
      if (expression.key !== NFT_CT_MARK) return undefined;
      return write("connection", registers.get(expression.sreg));
    case "target":
      return targetWrite(expression);
    case "other":
      // This evaluator does not know which value it loads, or into which register.
      registers.clear();
      return undefined;
    default:
      if ("dreg" in expression) registers.delete(expression.dreg);
      return undefined;
  }
}

/** The write to a mark if the register holds `bits`. */
function write(to: "packet" | "connection", bits: Bits | undefined): Written {
  if (bits === undefined) return { to, mask: fullMask, value: undefined, copied: 0 };
  if (bits.of === "constant") return { to, mask: fullMask, value: bits.flip, copied: 0 };
  return bits.of === to
    ? masked(to, bits.keep, bits.flip)
    : { to, mask: ~bits.keep >>> 0, value: (bits.flip & ~bits.keep) >>> 0, copied: bits.keep };
}

/** `mark = (mark & keep) ^ flip`: bits that are kept and flipped are written, too. */
function masked(to: "packet" | "connection", keep: number, flip: number): Written {
  const mask = (~keep | flip) >>> 0;
  return { to, mask, value: (flip & mask) >>> 0, copied: 0 };
}

function targetWrite({ name, revision, info }: Extension): Written | undefined {
  const view = new DataView(info.buffer, info.byteOffset, info.length);
  const word = (index: number) =>
    info.length >= 4 * index + 4 ? view.getUint32(4 * index, HOST_ORDER) : 0;
  switch (name) {
    case "MARK":
      return masked("packet", ~word(1) >>> 0, word(0));
    case "TPROXY":
      return masked("packet", ~word(0) >>> 0, word(1));
    case "CONNMARK": {
      const [ctMark, ctMask, packetMask] = [word(0), word(1), word(2)];
      // Revision 2 has two bytes about shifting in front of it.
      const mode = info[revision < 2 ? 12 : 14] ?? 0;
      if (mode === XT_CONNMARK_SET) return masked("connection", ~ctMask >>> 0, ctMark);
      const isSave = mode === XT_CONNMARK_SAVE;
      // Bits that are replaced, and those of them that come from the other mark.
      const [replaced, copied] = isSave ? [ctMask, packetMask] : [packetMask, ctMask];
      const mask = (replaced & ~copied) >>> 0;
      return { to: isSave ? "connection" : "packet", mask, value: 0, copied: copied >>> 0 };
    }
    default:
      return undefined;
  }
}

function load(
  registers: Map<number, Bits>,
  register: number,
  of: "packet" | "connection" | undefined,
): void {
  if (of === undefined) registers.delete(register);
  else registers.set(register, { of, keep: fullMask, flip: 0 });
}

function constant(data: Uint8Array): Bits {
  return { of: "constant", keep: 0, flip: data.length === 4 ? fromHostOrder32(data) : 0 };
}

function placeOf({ family, table, chain, handle }: FirewallRule): string {
  const at = handle === undefined ? "" : ` handle ${handle}`;
  return `table ${familyName(family)} ${table} chain ${chain}${at}`;
}

function familiesOf(family: number): readonly Family[] {
  if (family === AF_INET) return [4];
  return family === AF_INET6 ? [6] : [4, 6];
}
