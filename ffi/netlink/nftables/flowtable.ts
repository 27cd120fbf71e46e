/** Flowtables of nf_tables: established flows that the ingress hook forwards by itself. Pure. */

import {
  NF_NETDEV_INGRESS,
  NFT_MSG_GETFLOWTABLE,
  NFT_MSG_NEWFLOWTABLE,
  NFTA_DEVICE_NAME,
  NFTA_FLOWTABLE_FLAGS,
  NFTA_FLOWTABLE_HANDLE,
  NFTA_FLOWTABLE_HOOK,
  NFTA_FLOWTABLE_HOOK_DEVS,
  NFTA_FLOWTABLE_HOOK_NUM,
  NFTA_FLOWTABLE_HOOK_PRIORITY,
  NFTA_FLOWTABLE_NAME,
  NFTA_FLOWTABLE_TABLE,
  NFTA_FLOWTABLE_USE,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_DUMP,
} from "../constants.ts";
import { decodeCString, defined, type Message, required } from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";

/** A flowtable. */
export interface Flowtable {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** Signed, ascending: where among the programs of the ingress hook. */
  readonly priority: number;
  /** The interfaces at which it looks for its flows. A missing one is ENOENT. */
  readonly devices: readonly string[];
  /**
   * NFT_FLOWTABLE_*; absent for none. Without NFT_FLOWTABLE_COUNTER connection tracking counts no
   * packet of an offloaded flow.
   */
  readonly flags?: number;
  /** How many rules use it, in dumps. */
  readonly use?: number;
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
}

/** Makes a flowtable, or adds the interfaces to the one of this name. */
export function newFlowtable(flowtable: Flowtable): Message {
  const { family } = flowtable;
  return nftMessage("NFT_MSG_NEWFLOWTABLE", NFT_MSG_NEWFLOWTABLE, NLM_F_CREATE, family, (to) => {
    to.cstring(NFTA_FLOWTABLE_TABLE, flowtable.table);
    to.cstring(NFTA_FLOWTABLE_NAME, flowtable.name);
    to.nest(NFTA_FLOWTABLE_HOOK | NLA_F_NESTED, () => {
      to.be32(NFTA_FLOWTABLE_HOOK_NUM, NF_NETDEV_INGRESS);
      to.be32(NFTA_FLOWTABLE_HOOK_PRIORITY, flowtable.priority);
      if (flowtable.devices.length === 0) return;
      to.nest(NFTA_FLOWTABLE_HOOK_DEVS | NLA_F_NESTED, () => {
        for (const device of flowtable.devices) to.cstring(NFTA_DEVICE_NAME, device);
      });
    });
    if (flowtable.flags !== undefined) to.be32(NFTA_FLOWTABLE_FLAGS, flowtable.flags);
  });
}

/** Lists the flowtables of a table; those of other families come too. */
export function dumpFlowtables(family: number, table: string): Message {
  return nftMessage("NFT_MSG_GETFLOWTABLE", NFT_MSG_GETFLOWTABLE, NLM_F_DUMP, family, (to) => {
    to.cstring(NFTA_FLOWTABLE_TABLE, table);
  });
}

/**
 * Decodes the body of NFT_MSG_NEWFLOWTABLE.
 * @throws WireError
 */
export function decodeFlowtable(body: Uint8Array): Flowtable {
  const { family, attributes } = nftAttributes(body);
  const hook = attributes.nested(NFTA_FLOWTABLE_HOOK);
  const devices = hook?.list(NFTA_FLOWTABLE_HOOK_DEVS) ?? [];
  return defined({
    family,
    table: required(attributes.string(NFTA_FLOWTABLE_TABLE), "NFTA_FLOWTABLE_TABLE"),
    name: required(attributes.string(NFTA_FLOWTABLE_NAME), "NFTA_FLOWTABLE_NAME"),
    priority: hook?.signed32(NFTA_FLOWTABLE_HOOK_PRIORITY) ?? 0,
    devices: devices.map(({ payload }) => decodeCString(payload)),
    flags: attributes.be32(NFTA_FLOWTABLE_FLAGS) || undefined,
    use: attributes.be32(NFTA_FLOWTABLE_USE),
    handle: attributes.be64(NFTA_FLOWTABLE_HANDLE),
  });
}
