/** Trace messages of nf_tables (`meta nftrace set 1`, `nft monitor trace`). Pure. */

import {
  NFNL_SUBSYS_NFTABLES,
  NFT_MSG_TRACE,
  NFT_TRACETYPE_POLICY,
  NFTA_TRACE_CHAIN,
  NFTA_TRACE_ID,
  NFTA_TRACE_POLICY,
  NFTA_TRACE_RULE_HANDLE,
  NFTA_TRACE_TABLE,
  NFTA_TRACE_TYPE,
  NFTA_TRACE_VERDICT,
  NFTA_VERDICT_CODE,
} from "../constants.ts";
import { defined, type ReceivedMessage, required } from "../wire.ts";
import { nftAttributes } from "./batch.ts";

/** One step of a traced packet: a rule that has matched, or the end of a base chain. */
export interface TraceStep {
  /** The packet's, in network order; the same for all of its steps. */
  readonly id: number;
  readonly family: number;
  readonly table: string;
  readonly chain: string;
  /** Absent for a policy. */
  readonly handle?: bigint;
  readonly isPolicy: boolean;
  /** NF_DROP, NF_ACCEPT, NFT_JUMP, …; of a policy NF_DROP or NF_ACCEPT. */
  readonly verdict?: number;
}

/**
 * Decodes a message of NFNLGRP_NFTRACE; undefined for any other.
 * @throws WireError
 */
export function decodeTraceStep({ type, body }: ReceivedMessage): TraceStep | undefined {
  if (type !== ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_TRACE)) return undefined;
  const { family, attributes } = nftAttributes(body);
  const isPolicy = attributes.be32(NFTA_TRACE_TYPE) === NFT_TRACETYPE_POLICY;
  const code = attributes.nested(NFTA_TRACE_VERDICT)?.signed32(NFTA_VERDICT_CODE);
  return defined({
    id: required(attributes.be32(NFTA_TRACE_ID), "NFTA_TRACE_ID"),
    family,
    table: required(attributes.string(NFTA_TRACE_TABLE), "NFTA_TRACE_TABLE"),
    chain: required(attributes.string(NFTA_TRACE_CHAIN), "NFTA_TRACE_CHAIN"),
    handle: attributes.be64(NFTA_TRACE_RULE_HANDLE),
    isPolicy,
    verdict: isPolicy ? attributes.be32(NFTA_TRACE_POLICY) : code,
  });
}
