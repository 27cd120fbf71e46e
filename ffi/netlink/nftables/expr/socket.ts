/** `socket`: what the socket is that the packet belongs to. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, fieldCodec, unlessZero } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_SOCKET_TRANSPARENT = 0;
export const NFT_SOCKET_MARK = 1;
export const NFT_SOCKET_WILDCARD = 2;
export const NFT_SOCKET_CGROUPV2 = 3;
export const NFTA_SOCKET_KEY = 1;
export const NFTA_SOCKET_DREG = 2;
export const NFTA_SOCKET_LEVEL = 3;

/** Loads a NFT_SOCKET_* of the socket that the packet belongs to; without one the rule ends. */
export interface SocketLoad {
  readonly kind: "socket";
  readonly key: number;
  readonly dreg: number;
  /** Of NFT_SOCKET_CGROUPV2: how far below the root the control group is. */
  readonly level?: number;
}

/** `[ socket load transparent => reg 1 ]`: 1 byte for NFT_SOCKET_TRANSPARENT and _WILDCARD. */
export function socket(key: number): SocketLoad {
  return { kind: "socket", key, dreg: NFT_REG_1 };
}

/** Loads the number of the control group's ancestor at a level: a u64 in host order. */
export function socketControlGroup(level: number): SocketLoad {
  return { kind: "socket", key: NFT_SOCKET_CGROUPV2, dreg: NFT_REG_1, level };
}

export const socketCodec = fieldCodec<SocketLoad>("socket", {
  key: be32({ NFTA_SOCKET_KEY }),
  dreg: be32({ NFTA_SOCKET_DREG }),
  // nft writes 0 for the other keys.
  level: unlessZero(be32({ NFTA_SOCKET_LEVEL })),
});
