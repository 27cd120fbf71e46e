/** Which mark a firewall rule sets, read off its expressions. Pure. */

import { NFT_META_MARK } from "../../ffi/netlink/constants.ts";
import type { Expression } from "../../ffi/netlink/nftables/expressions.ts";
import { HOST_ORDER } from "../../ffi/netlink/wire.ts";
import type { Mark } from "../../ffi/types.ts";
import { fullMask, type MaskedMark } from "../net/mark.ts";

/** Where in the rule setting the mark begins, and what it is set to; undefined if it is not. */
export function findMarking(
  expressions: readonly Expression[],
): { readonly at: number; readonly mark: MaskedMark } | undefined {
  const set = expressions.findIndex(
    (each) => each.kind === "meta set" && each.key === NFT_META_MARK,
  );
  const before = expressions[set - 1];
  if (before?.kind === "immediate") {
    return { at: set - 1, mark: { value: u32(before.data) as Mark, mask: fullMask } };
  }
  if (before?.kind === "bitwise") {
    const mask = ~u32(before.mask) >>> 0;
    return { at: set - 2, mark: { value: u32(before.xor) as Mark, mask } };
  }
  return undefined;
}

function u32(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(0, HOST_ORDER);
}
