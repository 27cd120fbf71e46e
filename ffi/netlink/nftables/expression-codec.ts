/**
 * What each file of `expr/` has: one expression of nf_tables' virtual machine as the kernel knows
 * it, with its constants, its types, what makes it, and its codec. Pure.
 *
 * A rule runs its expressions in order. Loads fill a register; a comparison that fails ends the
 * rule. Registers are NFT_REG_1 to NFT_REG_4, of 16 bytes; a maker that takes none uses NFT_REG_1.
 * A mark and a uid are u32 in host order, ports and addresses are in network order. The text of
 * nft(8) is none of this folder's business: it knows the kernel's form alone.
 */

import type { Attributes, Writer } from "../wire.ts";

/** How an expression is written and read, in the order of attributes that nft(8) has. */
export interface ExpressionCodec<Value extends { readonly kind: string }> {
  /** The kernel's name of it (`struct nft_expr_type`). */
  readonly name: string;
  /** The kinds that it has here: more than one where the kernel gives one name to several tasks. */
  readonly kinds: readonly Value["kind"][];
  /** Writes the members of NFTA_EXPR_DATA. */
  encode(to: Writer, expression: Value): void;
  /**
   * Undefined for a form that has no type here.
   * @throws WireError
   */
  decode(from: Attributes): Value | undefined;
}
