/** Tables of nf_tables. Pure. */

import {
  NFT_MSG_DELTABLE,
  NFT_MSG_GETTABLE,
  NFT_MSG_NEWTABLE,
  NFTA_TABLE_FLAGS,
  NFTA_TABLE_HANDLE,
  NFTA_TABLE_NAME,
  NFTA_TABLE_OWNER,
  NFTA_TABLE_USERDATA,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
} from "../constants.ts";
import { defined, type Message, required } from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";

/** A table. Not to be named `tproxy`, a keyword that nft(8) can neither list nor delete. */
export interface Table {
  /** NFPROTO_INET, NFPROTO_IPV4, … */
  readonly family: number;
  readonly name: string;
  /**
   * NFT_TABLE_F_*; absent for none. With NFT_TABLE_F_OWNER (Linux 5.12) the table belongs to the
   * socket that makes it: it goes when that socket is closed, however its process ends. Others
   * may only read it, and `nft flush ruleset` skips it. With NFT_TABLE_F_PERSIST as well (Linux
   * 6.9) it stays, without an owner, and the next process may make it its own by the same flags.
   */
  readonly flags?: number;
  /** The owner's netlink port, in dumps. */
  readonly owner?: number;
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
  /** At most 256 bytes, which the kernel keeps and does not read (Linux 5.10): see `typeof.ts`. */
  readonly userData?: Uint8Array;
}

/**
 * Makes a table: EEXIST when there is one, unless `orKeep` is set. With that and both flags it also
 * takes over a table whose owner has ended.
 */
export function newTable(table: Table, orKeep = false): Message {
  const flags = orKeep ? NLM_F_CREATE : NLM_F_CREATE | NLM_F_EXCL;
  return nftMessage("NFT_MSG_NEWTABLE", NFT_MSG_NEWTABLE, flags, table.family, (to) => {
    to.cstring(NFTA_TABLE_NAME, table.name);
    to.be32(NFTA_TABLE_FLAGS, table.flags ?? 0);
    if (table.userData !== undefined) to.bytes(NFTA_TABLE_USERDATA, table.userData);
  });
}

/** Deletes a table with all that is in it: ENOENT without one, EPERM when another owns it. */
export function deleteTable({ family, name }: Pick<Table, "family" | "name">): Message {
  return nftMessage("NFT_MSG_DELTABLE", NFT_MSG_DELTABLE, 0, family, (to) => {
    to.cstring(NFTA_TABLE_NAME, name);
  });
}

/** Asks for the tables of one family, NFPROTO_UNSPEC for all. */
export function dumpTables(family: number): Message {
  return nftMessage("NFT_MSG_GETTABLE", NFT_MSG_GETTABLE, NLM_F_DUMP, family, () => {});
}

/**
 * Decodes the body of NFT_MSG_NEWTABLE.
 * @throws WireError
 */
export function decodeTable(body: Uint8Array): Table {
  const { family, attributes } = nftAttributes(body);
  return defined({
    family,
    name: required(attributes.string(NFTA_TABLE_NAME), "NFTA_TABLE_NAME"),
    flags: attributes.be32(NFTA_TABLE_FLAGS) || undefined,
    owner: attributes.be32(NFTA_TABLE_OWNER),
    handle: attributes.be64(NFTA_TABLE_HANDLE),
    userData: attributes.bytes(NFTA_TABLE_USERDATA),
  });
}
