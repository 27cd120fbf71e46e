/** Which mark a firewall rule sets, and which bits it looks at, read off its expressions. Pure. */

import { NFPROTO_INET, NFPROTO_IPV4 } from "../../../ffi/netlink/constants.ts";
import { NFT_META_MARK, NFT_META_NFPROTO } from "../../../ffi/netlink/nftables/expr/meta.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { fromHostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import type { Mark } from "../../../ffi/types.ts";
import type { Family } from "../../net/address.ts";
import { fullMask, type MaskedMark } from "../../net/mark.ts";
import { markWrites } from "./foreign-marks.ts";

/** Where in the rule setting the mark begins, and what it is set to; undefined if it is not. */
export function findMarking(
  expressions: readonly Expression[],
): { readonly at: number; readonly mark: MaskedMark } | undefined {
  const set = expressions.findIndex(
    (each) => each.kind === "meta set" && each.key === NFT_META_MARK,
  );
  const before = expressions[set - 1];
  if (before?.kind === "immediate") {
    return { at: set - 1, mark: { value: fromHostOrder32(before.data) as Mark, mask: fullMask } };
  }
  if (before?.kind === "bitwise") {
    const mask = ~fromHostOrder32(before.mask) >>> 0;
    return { at: set - 2, mark: { value: fromHostOrder32(before.xor) as Mark, mask } };
  }
  return undefined;
}

/** The mark that a rule gives packets; undefined if it gives none, or only clears bits. */
export function markSetBy(rule: FirewallRule): MaskedMark | undefined {
  const written = markWrites(rule).find(({ to, value = 0 }) => to === "packet" && value !== 0);
  return written && { value: (written.value ?? 0) as Mark, mask: written.mask };
}

/** The bits of the mark that a rule compares. They identify the proxy's own packets. */
export function markBitsReadBy({ expressions }: FirewallRule): number {
  return expressions.reduce((bits, each, i) => {
    if (each.kind !== "meta" || each.key !== NFT_META_MARK) return bits;
    const [next, afterwards] = expressions.slice(i + 1);
    if (next?.kind === "cmp") return fullMask;
    return next?.kind === "bitwise" && afterwards?.kind === "cmp"
      ? bits | fromHostOrder32(next.mask)
      : bits;
  }, 0);
}

/** The families whose packets a rule sees: that of its table, or in `inet` the one it asks for. */
export function familiesOf({ family, expressions }: FirewallRule): readonly Family[] {
  if (family !== NFPROTO_INET) return family === NFPROTO_IPV4 ? [4] : [6];
  const at = expressions.findIndex((each) => each.kind === "meta" && each.key === NFT_META_NFPROTO);
  const compared = expressions[at + 1];
  if (at < 0 || compared?.kind !== "cmp") return [4, 6];
  return compared.data[0] === NFPROTO_IPV4 ? [4] : [6];
}
