/** `counter`: counts what comes to it. Pure. */

import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFTA_COUNTER_BYTES = 1;
export const NFTA_COUNTER_PACKETS = 2;

/** Counts packets and bytes. In a new rule, what it starts from. */
export interface Counter {
  readonly kind: "counter";
  readonly packets: bigint;
  readonly bytes: bigint;
}

/** `[ counter pkts 0 bytes 0 ]` */
export function counter(): Counter {
  return { kind: "counter", packets: 0n, bytes: 0n };
}

export const counterCodec: ExpressionCodec<Counter> = {
  name: "counter",
  kinds: ["counter"],
  encode(to, { packets, bytes }) {
    if (bytes !== 0n) to.be64(NFTA_COUNTER_BYTES, bytes);
    if (packets !== 0n) to.be64(NFTA_COUNTER_PACKETS, packets);
  },
  decode(from) {
    return {
      kind: "counter",
      packets: from.be64(NFTA_COUNTER_PACKETS) ?? 0n,
      bytes: from.be64(NFTA_COUNTER_BYTES) ?? 0n,
    };
  },
};
