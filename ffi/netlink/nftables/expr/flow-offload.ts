/** `flow_offload`: hands a flow to a flowtable, which forwards its further packets. Pure. */

import { fieldCodec, text } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFTA_FLOW_TABLE_NAME = 1;

/** Offloads the packet's flow; a packet of a flow that cannot be offloaded passes as before. */
export interface FlowOffload {
  readonly kind: "flow_offload";
  readonly flowtable: string;
}

/** `[ flow_offload flowtable name ]` */
export function flowOffload(flowtable: string): FlowOffload {
  return { kind: "flow_offload", flowtable };
}

export const flowOffloadCodec = fieldCodec<FlowOffload>("flow_offload", {
  flowtable: text({ NFTA_FLOW_TABLE_NAME }),
});
