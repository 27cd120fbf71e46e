/** `match` and `target`: the extensions of iptables in rules of nf_tables (nft_compat.c). Pure. */

import type { Extension } from "../../../xtables.ts";
import { be32, bytes, fieldCodec, or, text } from "../fields.ts";

// linux/netfilter/nf_tables_compat.h
export const NFTA_TARGET_NAME = 1;
export const NFTA_TARGET_REV = 2;
export const NFTA_TARGET_INFO = 3;
export const NFTA_MATCH_NAME = 1;
export const NFTA_MATCH_REV = 2;
export const NFTA_MATCH_INFO = 3;

/** The match `iptables -m name`, or the target `iptables -j name`. */
export interface CompatExtension<Kind extends "match" | "target" = "match" | "target">
  extends Extension {
  readonly kind: Kind;
}

export const matchCodec = fieldCodec<CompatExtension<"match">>("match", {
  name: text({ NFTA_MATCH_NAME }),
  revision: or(be32({ NFTA_MATCH_REV }), 0),
  info: or(bytes({ NFTA_MATCH_INFO }), new Uint8Array()),
});

export const targetCodec = fieldCodec<CompatExtension<"target">>("target", {
  name: text({ NFTA_TARGET_NAME }),
  revision: or(be32({ NFTA_TARGET_REV }), 0),
  info: or(bytes({ NFTA_TARGET_INFO }), new Uint8Array()),
});
