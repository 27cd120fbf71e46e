/** Connection-tracking time-outs as named objects of nf_tables (`ct timeout`). Pure. */

import { IPPROTO_TCP } from "../../constants.ts";
import {
  NFT_MSG_NEWOBJ,
  NFT_OBJECT_CT_TIMEOUT,
  NFTA_CT_TIMEOUT_DATA,
  NFTA_CT_TIMEOUT_L3PROTO,
  NFTA_CT_TIMEOUT_L4PROTO,
  NFTA_OBJ_DATA,
  NFTA_OBJ_HANDLE,
  NFTA_OBJ_NAME,
  NFTA_OBJ_TABLE,
  NFTA_OBJ_TYPE,
  NFTA_OBJ_USE,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_EXCL,
} from "../constants.ts";
import { type Attributes, defined, type Message, required } from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";

/** CTA_TIMEOUT_TCP_* (linux/netfilter/nfnetlink_cttimeout.h). */
export const tcpTimeouts = {
  synSent: 1,
  synReceived: 2,
  established: 3,
  finWait: 4,
  closeWait: 5,
  lastAck: 6,
  timeWait: 7,
  close: 8,
  synSent2: 9,
  retransmitted: 10,
  unacknowledged: 11,
} as const;
/** CTA_TIMEOUT_UDP_*. */
export const udpTimeouts = { unreplied: 1, replied: 2 } as const;

/** Seconds by state; a state that is not given has the kernel's time-out. */
export type TimeoutPolicy =
  | { readonly [State in keyof typeof tcpTimeouts]?: number }
  | { readonly [State in keyof typeof udpTimeouts]?: number };

/** A named policy of time-outs. */
export interface TimeoutObject {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** NFPROTO_IPV4 or NFPROTO_IPV6: of the connections, which the kernel wants to know. */
  readonly network: number;
  /** IPPROTO_TCP or IPPROTO_UDP. */
  readonly protocol: number;
  readonly policy: TimeoutPolicy;
  /** How many rules use it, in dumps. */
  readonly use?: number;
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
}

/** Makes one: EEXIST when there is one, EOPNOTSUPP without CONFIG_NF_CONNTRACK_TIMEOUT. */
export function newTimeoutObject(object: TimeoutObject): Message {
  const flags = NLM_F_CREATE | NLM_F_EXCL;
  return nftMessage("NFT_MSG_NEWOBJ", NFT_MSG_NEWOBJ, flags, object.family, (to) => {
    to.cstring(NFTA_OBJ_TABLE, object.table);
    to.cstring(NFTA_OBJ_NAME, object.name);
    to.be32(NFTA_OBJ_TYPE, NFT_OBJECT_CT_TIMEOUT);
    to.nest(NFTA_OBJ_DATA | NLA_F_NESTED, () => {
      to.be16(NFTA_CT_TIMEOUT_L3PROTO, object.network);
      to.u8(NFTA_CT_TIMEOUT_L4PROTO, object.protocol);
      to.nest(NFTA_CT_TIMEOUT_DATA | NLA_F_NESTED, () => {
        for (const [state, type] of statesOf(object.protocol)) {
          const seconds = (object.policy as Readonly<Record<string, number>>)[state];
          if (seconds !== undefined) to.be32(type, seconds);
        }
      });
    });
  });
}

/**
 * Decodes the body of NFT_MSG_NEWOBJ of this type. The kernel lists all states of the protocol.
 * @throws WireError
 */
export function decodeTimeoutObject(body: Uint8Array): TimeoutObject {
  const { family, attributes } = nftAttributes(body);
  const data = required(attributes.nested(NFTA_OBJ_DATA), "NFTA_OBJ_DATA");
  const protocol = required(data.u8(NFTA_CT_TIMEOUT_L4PROTO), "NFTA_CT_TIMEOUT_L4PROTO");
  return defined({
    family,
    table: required(attributes.string(NFTA_OBJ_TABLE), "NFTA_OBJ_TABLE"),
    name: required(attributes.string(NFTA_OBJ_NAME), "NFTA_OBJ_NAME"),
    network: required(data.be16(NFTA_CT_TIMEOUT_L3PROTO), "NFTA_CT_TIMEOUT_L3PROTO"),
    protocol,
    policy: policyOf(data.nested(NFTA_CT_TIMEOUT_DATA), protocol),
    use: attributes.be32(NFTA_OBJ_USE),
    handle: attributes.be64(NFTA_OBJ_HANDLE),
  });
}

function policyOf(data: Attributes | undefined, protocol: number): TimeoutPolicy {
  const seconds = statesOf(protocol).map(([state, type]) => [state, data?.be32(type)] as const);
  return Object.fromEntries(seconds.filter(([, value]) => value !== undefined));
}

function statesOf(protocol: number): [state: string, type: number][] {
  return Object.entries(protocol === IPPROTO_TCP ? tcpTimeouts : udpTimeouts);
}
