/** `match` and `target`: the extensions of iptables in rules of nf_tables (nft_compat.c). Pure. */

import type { Extension } from "../../../xtables.ts";
import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables_compat.h
export const NFTA_TARGET_NAME = 1;
export const NFTA_TARGET_REV = 2;
export const NFTA_TARGET_INFO = 3;
export const NFTA_MATCH_NAME = 1;
export const NFTA_MATCH_REV = 2;
export const NFTA_MATCH_INFO = 3;

/** What `iptables -m name` asks, or does what `iptables -j name` does. */
export interface CompatExtension<Kind extends "match" | "target" = "match" | "target">
  extends Extension {
  readonly kind: Kind;
}

export const matchCodec = codecOf("match", NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO);
export const targetCodec = codecOf("target", NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO);

function codecOf<Kind extends "match" | "target">(
  kind: Kind,
  nameType: number,
  revisionType: number,
  infoType: number,
): ExpressionCodec<CompatExtension<Kind>> {
  return {
    name: kind,
    kinds: [kind],
    encode(to, { name, revision, info }) {
      to.cstring(nameType, name);
      to.be32(revisionType, revision);
      to.bytes(infoType, info);
    },
    decode(from) {
      return {
        kind,
        name: required(from.string(nameType), "NFTA_MATCH_NAME"),
        revision: from.be32(revisionType) ?? 0,
        info: from.bytes(infoType) ?? new Uint8Array(),
      };
    },
  };
}
