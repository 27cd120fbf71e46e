/** How full connection tracking is, and what it has counted, by netlink. Pure. */

import { conntrackMessage } from "./conntrack.ts";
import * as c from "./conntrack-constants.ts";
import { NFPROTO_UNSPEC, NLM_F_DUMP } from "./constants.ts";
import { nfnetlinkAttributes } from "./nfnetlink.ts";
import { defined, type Message, required } from "./wire.ts";

/** How full the table of the namespace is. */
export interface ConntrackFill {
  readonly entries: number;
  /** net.netfilter.nf_conntrack_max; absent before Linux 5.10. */
  readonly max?: number;
}

/** Counts of one CPU since its namespace was made; absent ones the kernel does not have. */
export interface ConntrackCounts {
  readonly cpu: number;
  /** Packets that are of no connection and begin none. */
  readonly invalid?: number;
  /** Entries that were not made because another one had taken their tuple meanwhile. */
  readonly insertFailed?: number;
  /** Packets that were dropped because the table was full, or their entry could not be made. */
  readonly dropped?: number;
  /** Entries of connections that were not established, evicted because the table was full. */
  readonly earlyDropped?: number;
}

/** Asks how many entries there are, and may be. */
export function getFill(): Message {
  const type = c.IPCTNL_MSG_CT_GET_STATS;
  return conntrackMessage("IPCTNL_MSG_CT_GET_STATS", type, 0, NFPROTO_UNSPEC, () => {});
}

/**
 * Decodes the body of the reply.
 * @throws WireError
 */
export function decodeFill(body: Uint8Array): ConntrackFill {
  const { attributes } = nfnetlinkAttributes(body);
  return defined({
    entries: required(attributes.be32(c.CTA_STATS_GLOBAL_ENTRIES), "CTA_STATS_GLOBAL_ENTRIES"),
    max: attributes.be32(c.CTA_STATS_GLOBAL_MAX_ENTRIES),
  });
}

/** Asks for the counts of every CPU. */
export function dumpCounts(): Message {
  const type = c.IPCTNL_MSG_CT_GET_STATS_CPU;
  const operation = "IPCTNL_MSG_CT_GET_STATS_CPU";
  return conntrackMessage(operation, type, NLM_F_DUMP, NFPROTO_UNSPEC, () => {});
}

/**
 * Decodes the body of one of the replies.
 * @throws WireError
 */
export function decodeCounts(body: Uint8Array): ConntrackCounts {
  const { resource, attributes } = nfnetlinkAttributes(body);
  return defined({
    cpu: resource,
    invalid: attributes.be32(c.CTA_STATS_INVALID),
    insertFailed: attributes.be32(c.CTA_STATS_INSERT_FAILED),
    dropped: attributes.be32(c.CTA_STATS_DROP),
    earlyDropped: attributes.be32(c.CTA_STATS_EARLY_DROP),
  });
}
