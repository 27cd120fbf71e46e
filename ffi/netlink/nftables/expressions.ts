/**
 * The expressions of nf_tables' virtual machine: a type and a constructor each. Pure.
 *
 * A rule runs its expressions in order. Loads fill a register, a comparison that fails ends the
 * rule. Registers are NFT_REG_1 to NFT_REG_4, of 16 bytes; without a register here, NFT_REG_1.
 * What one holds: a mark or a uid a host-order u32; ports and addresses network order; protocols,
 * nfproto, fib's type (a u32 in host order) and what `socket` loads as noted at each constructor.
 */

import {
  NFT_CMP_EQ,
  NFT_FIB_RESULT_ADDRTYPE,
  NFT_RANGE_EQ,
  NFT_REG_1,
  NFT_REG_2,
} from "../constants.ts";

/** Writes `(register & mask) ^ xor` to a register; both are as long as what it holds. */
export interface Bitwise {
  readonly kind: "bitwise";
  readonly sreg: number;
  readonly dreg: number;
  readonly mask: Uint8Array;
  readonly xor: Uint8Array;
}

/** Goes on if the register compares as NFT_CMP_* with `data`. */
export interface Compare {
  readonly kind: "cmp";
  readonly op: number;
  readonly sreg: number;
  readonly data: Uint8Array;
}

/** Counts packets and bytes. In a new rule, what it starts from. */
export interface Counter {
  readonly kind: "counter";
  readonly packets: bigint;
  readonly bytes: bigint;
}

/** Loads a NFT_CT_* of the packet's connection. */
export interface ConntrackLoad {
  readonly kind: "ct";
  readonly key: number;
  readonly dreg: number;
}

/** Loads what the routing tables say of an address of the packet: NFTA_FIB_F_* says which. */
export interface FibLoad {
  readonly kind: "fib";
  readonly result: number;
  readonly flags: number;
  readonly dreg: number;
}

/** Loads a constant. */
export interface Immediate {
  readonly kind: "immediate";
  readonly dreg: number;
  readonly data: Uint8Array;
}

/** Decides: NF_ACCEPT, NF_DROP, NFT_RETURN, or NFT_JUMP and NFT_GOTO to a chain. */
export interface Verdict {
  readonly kind: "verdict";
  readonly code: number;
  readonly chain?: string;
}

/**
 * Goes on if the set has the register's value, or with NFT_LOOKUP_F_INV if it has not. With `dreg`
 * the set is a map, and what it has for the value is loaded; NFT_REG_VERDICT carries it out.
 */
export interface Lookup {
  readonly kind: "lookup";
  readonly set: string;
  readonly sreg: number;
  readonly dreg?: number;
  /** The set's id, for one that the same batch makes. The kernel does not tell it back. */
  readonly setId?: number;
  readonly flags?: number;
}

/** Loads a NFT_META_*. */
export interface MetaLoad {
  readonly kind: "meta";
  readonly key: number;
  readonly dreg: number;
}

/** Sets a NFT_META_* from a register. */
export interface MetaSet {
  readonly kind: "meta set";
  readonly key: number;
  readonly sreg: number;
}

/** Loads bytes of the packet. */
export interface PayloadLoad {
  readonly kind: "payload";
  readonly base: number;
  readonly offset: number;
  readonly length: number;
  readonly dreg: number;
}

/** Goes on if the register is within `from` and `to`, or with NFT_RANGE_NEQ if it is not. */
export interface RangeCompare {
  readonly kind: "range";
  readonly op: number;
  readonly sreg: number;
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

/** Loads a NFT_SOCKET_* of the socket that the packet belongs to; without one the rule ends. */
export interface SocketLoad {
  readonly kind: "socket";
  readonly key: number;
  readonly dreg: number;
}

/**
 * Hands the packet to a transparent listener; without one the rule ends. Prerouting only. With an
 * address the family must be one, without it NFPROTO_UNSPEC takes both.
 */
export interface Tproxy {
  readonly kind: "tproxy";
  readonly family: number;
  readonly addressRegister?: number;
  readonly portRegister?: number;
}

/** An expression of somebody else's rule, kept as it is. */
export interface OtherExpression {
  readonly kind: "other";
  readonly name: string;
  /** The payload of NFTA_EXPR_DATA. */
  readonly data: Uint8Array;
}

export type Expression =
  | Bitwise
  | Compare
  | ConntrackLoad
  | Counter
  | FibLoad
  | Immediate
  | Lookup
  | MetaLoad
  | MetaSet
  | OtherExpression
  | PayloadLoad
  | RangeCompare
  | SocketLoad
  | Tproxy
  | Verdict;

/** `[ bitwise reg 1 = ( reg 1 & mask ) ^ xor ]` */
export function bitwise(mask: Uint8Array, xor: Uint8Array): Bitwise {
  return { kind: "bitwise", sreg: NFT_REG_1, dreg: NFT_REG_1, mask, xor };
}

/** `[ cmp eq reg 1 data ]`; NFT_CMP_NEQ and the orders, bytewise from the first, in `op`. */
export function compare(data: Uint8Array, op: number = NFT_CMP_EQ): Compare {
  return { kind: "cmp", op, sreg: NFT_REG_1, data };
}

/** `[ counter pkts 0 bytes 0 ]` */
export function counter(): Counter {
  return { kind: "counter", packets: 0n, bytes: 0n };
}

/** `[ ct load key => reg 1 ]`; NFT_CT_DIRECTION is 1 byte, 1 for replies. */
export function conntrack(key: number): ConntrackLoad {
  return { kind: "ct", key, dreg: NFT_REG_1 };
}

/** `[ fib daddr type => reg 1 ]`: the RTN_* of the address, a host-order u32. */
export function fibType(flags: number): FibLoad {
  return { kind: "fib", result: NFT_FIB_RESULT_ADDRTYPE, flags, dreg: NFT_REG_1 };
}

/** `[ immediate reg 1 data ]` */
export function immediate(data: Uint8Array, dreg: number = NFT_REG_1): Immediate {
  return { kind: "immediate", dreg, data };
}

/** `[ immediate reg 0 accept ]`; `chain` is where NFT_JUMP and NFT_GOTO go. */
export function verdict(code: number, chain?: string): Verdict {
  return chain === undefined ? { kind: "verdict", code } : { kind: "verdict", code, chain };
}

/** `[ lookup reg 1 set name ]`; `flags` NFT_LOOKUP_F_INV for "not in". */
export function lookup(set: { name: string; id?: number }, flags = 0): Lookup {
  const base = { kind: "lookup", set: set.name, sreg: NFT_REG_1 } as const;
  const identified = set.id === undefined ? base : { ...base, setId: set.id };
  return flags === 0 ? identified : { ...identified, flags };
}

/** `[ meta load key => reg 1 ]`: marks and uids u32 in host order, protocols 1 byte. */
export function meta(key: number): MetaLoad {
  return { kind: "meta", key, dreg: NFT_REG_1 };
}

/** `[ meta set key with reg 1 ]` */
export function metaSet(key: number): MetaSet {
  return { kind: "meta set", key, sreg: NFT_REG_1 };
}

/** `[ payload load 4b @ network header + 16 => reg 1 ]`: `base` is NFT_PAYLOAD_*. */
export function payload(base: number, offset: number, length: number): PayloadLoad {
  return { kind: "payload", base, offset, length, dreg: NFT_REG_1 };
}

/** `[ range eq reg 1 from to ]`, both within. */
export function range(from: Uint8Array, to: Uint8Array, op: number = NFT_RANGE_EQ): RangeCompare {
  return { kind: "range", op, sreg: NFT_REG_1, from, to };
}

/** `[ socket load transparent => reg 1 ]`: 1 byte for NFT_SOCKET_TRANSPARENT and _WILDCARD. */
export function socket(key: number): SocketLoad {
  return { kind: "socket", key, dreg: NFT_REG_1 };
}

/** `[ tproxy ip addr reg 1 port reg 2 ]`; without an address `[ tproxy port reg 1 ]`. */
export function tproxy(family: number, hasAddress: boolean): Tproxy {
  return hasAddress
    ? { kind: "tproxy", family, addressRegister: NFT_REG_1, portRegister: NFT_REG_2 }
    : { kind: "tproxy", family, portRegister: NFT_REG_1 };
}
