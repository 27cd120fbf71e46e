/** Chains of nf_tables. Pure. */

import {
  NFT_MSG_DELCHAIN,
  NFT_MSG_GETCHAIN,
  NFT_MSG_NEWCHAIN,
  NFTA_CHAIN_HANDLE,
  NFTA_CHAIN_HOOK,
  NFTA_CHAIN_NAME,
  NFTA_CHAIN_POLICY,
  NFTA_CHAIN_TABLE,
  NFTA_CHAIN_TYPE,
  NFTA_DEVICE_NAME,
  NFTA_HOOK_DEV,
  NFTA_HOOK_DEVS,
  NFTA_HOOK_HOOKNUM,
  NFTA_HOOK_PRIORITY,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
} from "../constants.ts";
import {
  type Attributes,
  decodeCString,
  defined,
  type Message,
  required,
  type Writer,
} from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";

/** Where and how a base chain sees packets. */
export interface BaseChain {
  /** `route` re-routes a packet of the output hook whose mark has changed. */
  readonly type: string;
  /** NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT, … */
  readonly hook: number;
  /** Signed, ascending: NF_IP_PRI_MANGLE (-150) is after connection tracking and before NAT. */
  readonly priority: number;
  /** The verdict on a packet that no rule decides on: NF_ACCEPT or NF_DROP. */
  readonly policy: number;
  /** The interfaces of an ingress or egress chain. */
  readonly devices?: readonly string[];
}

/** A chain of rules. */
export interface Chain {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** Absent for a chain that only others jump to. */
  readonly base?: BaseChain;
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
}

/** Makes a chain: EEXIST when there is one. */
export function newChain(chain: Chain): Message {
  const flags = NLM_F_CREATE | NLM_F_EXCL;
  return nftMessage("NFT_MSG_NEWCHAIN", NFT_MSG_NEWCHAIN, flags, chain.family, (to) => {
    const { base } = chain;
    to.cstring(NFTA_CHAIN_TABLE, chain.table);
    to.cstring(NFTA_CHAIN_NAME, chain.name);
    if (base === undefined) return;
    to.cstring(NFTA_CHAIN_TYPE, base.type);
    to.be32(NFTA_CHAIN_POLICY, base.policy);
    to.nest(NFTA_CHAIN_HOOK | NLA_F_NESTED, () => {
      to.be32(NFTA_HOOK_HOOKNUM, base.hook);
      to.be32(NFTA_HOOK_PRIORITY, base.priority);
      writeDevices(to, base.devices);
    });
  });
}

/** Kernels before 5.5 know one interface alone. */
function writeDevices(to: Writer, devices: readonly string[] = []): void {
  const [first, second] = devices;
  if (first !== undefined && second === undefined) return to.cstring(NFTA_HOOK_DEV, first);
  if (first === undefined) return;
  to.nest(NFTA_HOOK_DEVS | NLA_F_NESTED, () => {
    for (const device of devices) to.cstring(NFTA_DEVICE_NAME, device);
  });
}

/** Deletes a chain with its rules: EBUSY while others jump to it. */
export function deleteChain({ family, table, name }: Omit<Chain, "base">): Message {
  return nftMessage("NFT_MSG_DELCHAIN", NFT_MSG_DELCHAIN, 0, family, (to) => {
    to.cstring(NFTA_CHAIN_TABLE, table);
    to.cstring(NFTA_CHAIN_NAME, name);
  });
}

/** Asks for the chains of all tables of one family, NFPROTO_UNSPEC for all. */
export function dumpChains(family: number): Message {
  return nftMessage("NFT_MSG_GETCHAIN", NFT_MSG_GETCHAIN, NLM_F_DUMP, family, () => {});
}

/**
 * Decodes the body of NFT_MSG_NEWCHAIN.
 * @throws WireError
 */
export function decodeChain(body: Uint8Array): Chain {
  const { family, attributes } = nftAttributes(body);
  return defined({
    family,
    table: required(attributes.string(NFTA_CHAIN_TABLE), "NFTA_CHAIN_TABLE"),
    name: required(attributes.string(NFTA_CHAIN_NAME), "NFTA_CHAIN_NAME"),
    base: decodeBase(attributes),
    handle: attributes.be64(NFTA_CHAIN_HANDLE),
  });
}

function decodeBase(attributes: Attributes): BaseChain | undefined {
  const hook = attributes.nested(NFTA_CHAIN_HOOK);
  if (hook === undefined) return undefined;
  const first = hook.string(NFTA_HOOK_DEV);
  const listed = hook.list(NFTA_HOOK_DEVS).flatMap(({ type, payload }) => {
    return type === NFTA_DEVICE_NAME ? [decodeCString(payload)] : [];
  });
  const devices = listed.length > 0 ? listed : first === undefined ? undefined : [first];
  return defined({
    type: required(attributes.string(NFTA_CHAIN_TYPE), "NFTA_CHAIN_TYPE"),
    hook: required(hook.be32(NFTA_HOOK_HOOKNUM), "NFTA_HOOK_HOOKNUM"),
    priority: required(hook.signed32(NFTA_HOOK_PRIORITY), "NFTA_HOOK_PRIORITY"),
    policy: required(attributes.be32(NFTA_CHAIN_POLICY), "NFTA_CHAIN_POLICY"),
    devices,
  });
}
