/**
 * A socket filter for events of connection tracking (linux/filter.h): the kernel queues those alone
 * whose connection has a mark. So another program's connections neither fill the queue nor cost
 * their reader anything. Pure.
 */

import * as c from "../constants.ts";
import { sock_filter } from "../layout.ts";
import type { Masked } from "./conntrack.ts";
import { CTA_MARK } from "./conntrack-constants.ts";
import { HOST_ORDER } from "./wire.ts";

/** Where the attributes of an event begin: behind nlmsghdr and nfgenmsg. */
const ATTRIBUTES = 20;
const WHOLE = 0xffff_ffff;

type Instruction = readonly [code: number, k: number, jt?: number, jf?: number];

/** The program (struct sock_filter[]) that lets events with this mark pass, in host order. */
export function markFilter({ value, mask }: Masked): Uint8Array {
  const instructions: readonly Instruction[] = [
    [c.BPF_LDX | c.BPF_IMM, CTA_MARK],
    [c.BPF_LD | c.BPF_IMM, ATTRIBUTES],
    // The place of the attribute; 0: it has none.
    [c.BPF_LD | c.BPF_W | c.BPF_ABS, c.SKF_AD_OFF + c.SKF_AD_NLATTR],
    [c.BPF_JMP | c.BPF_JEQ | c.BPF_K, 0, 5, 0],
    [c.BPF_MISC | c.BPF_TAX, 0],
    [c.BPF_LD | c.BPF_W | c.BPF_IND, 4],
    [c.BPF_ALU | c.BPF_AND | c.BPF_K, mask],
    [c.BPF_JMP | c.BPF_JEQ | c.BPF_K, value & mask, 0, 1],
    [c.BPF_RET | c.BPF_K, WHOLE],
    [c.BPF_RET | c.BPF_K, 0],
  ];
  const bytes = new Uint8Array(instructions.length * sock_filter.size);
  const view = new DataView(bytes.buffer);
  for (const [i, [code, k, jt = 0, jf = 0]] of instructions.entries()) {
    const at = i * sock_filter.size;
    view.setUint16(at + sock_filter.code, code, HOST_ORDER);
    view.setUint8(at + sock_filter.jt, jt);
    view.setUint8(at + sock_filter.jf, jf);
    view.setUint32(at + sock_filter.k, k >>> 0, HOST_ORDER);
  }
  return bytes;
}
