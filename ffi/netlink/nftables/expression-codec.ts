/** Encoding and decoding of nf_tables' expressions, in the order that nft(8) has. Pure. */

import {
  NFT_BITWISE_MASK_XOR,
  NFT_REG_VERDICT,
  NFTA_BITWISE_DREG,
  NFTA_BITWISE_LEN,
  NFTA_BITWISE_MASK,
  NFTA_BITWISE_OP,
  NFTA_BITWISE_SREG,
  NFTA_BITWISE_XOR,
  NFTA_CMP_DATA,
  NFTA_CMP_OP,
  NFTA_CMP_SREG,
  NFTA_COUNTER_BYTES,
  NFTA_COUNTER_PACKETS,
  NFTA_CT_DIRECTION,
  NFTA_CT_DREG,
  NFTA_CT_KEY,
  NFTA_DATA_VALUE,
  NFTA_DATA_VERDICT,
  NFTA_EXPR_DATA,
  NFTA_EXPR_NAME,
  NFTA_FIB_DREG,
  NFTA_FIB_FLAGS,
  NFTA_FIB_RESULT,
  NFTA_IMMEDIATE_DATA,
  NFTA_IMMEDIATE_DREG,
  NFTA_LOOKUP_DREG,
  NFTA_LOOKUP_FLAGS,
  NFTA_LOOKUP_SET,
  NFTA_LOOKUP_SET_ID,
  NFTA_LOOKUP_SREG,
  NFTA_META_DREG,
  NFTA_META_KEY,
  NFTA_META_SREG,
  NFTA_PAYLOAD_BASE,
  NFTA_PAYLOAD_DREG,
  NFTA_PAYLOAD_LEN,
  NFTA_PAYLOAD_OFFSET,
  NFTA_RANGE_FROM_DATA,
  NFTA_RANGE_OP,
  NFTA_RANGE_SREG,
  NFTA_RANGE_TO_DATA,
  NFTA_SOCKET_DREG,
  NFTA_SOCKET_KEY,
  NFTA_SOCKET_LEVEL,
  NFTA_TPROXY_FAMILY,
  NFTA_TPROXY_REG_ADDR,
  NFTA_TPROXY_REG_PORT,
  NFTA_VERDICT_CHAIN,
  NFTA_VERDICT_CODE,
  NLA_F_NESTED,
} from "../constants.ts";
import { Attributes, defined, required, type Writer } from "../wire.ts";
import type { Expression } from "./expressions.ts";

type Kind = Expression["kind"];
type Of<Wanted extends Kind> = Extract<Expression, { kind: Wanted }>;

const encoders: { readonly [Each in Kind]: (to: Writer, expression: Of<Each>) => void } = {
  bitwise(to, { sreg, dreg, mask, xor }) {
    to.be32(NFTA_BITWISE_SREG, sreg);
    to.be32(NFTA_BITWISE_DREG, dreg);
    to.be32(NFTA_BITWISE_OP, NFT_BITWISE_MASK_XOR);
    to.be32(NFTA_BITWISE_LEN, mask.length);
    writeData(to, NFTA_BITWISE_MASK, mask);
    writeData(to, NFTA_BITWISE_XOR, xor);
  },
  cmp(to, { op, sreg, data }) {
    to.be32(NFTA_CMP_SREG, sreg);
    to.be32(NFTA_CMP_OP, op);
    writeData(to, NFTA_CMP_DATA, data);
  },
  counter(to, { packets, bytes }) {
    if (bytes !== 0n) to.be64(NFTA_COUNTER_BYTES, bytes);
    if (packets !== 0n) to.be64(NFTA_COUNTER_PACKETS, packets);
  },
  ct(to, { key, dreg }) {
    to.be32(NFTA_CT_KEY, key);
    to.be32(NFTA_CT_DREG, dreg);
  },
  fib(to, { result, flags, dreg }) {
    to.be32(NFTA_FIB_FLAGS, flags);
    to.be32(NFTA_FIB_RESULT, result);
    to.be32(NFTA_FIB_DREG, dreg);
  },
  immediate(to, { dreg, data }) {
    to.be32(NFTA_IMMEDIATE_DREG, dreg);
    writeData(to, NFTA_IMMEDIATE_DATA, data);
  },
  verdict(to, { code, chain }) {
    to.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    to.nest(NFTA_IMMEDIATE_DATA | NLA_F_NESTED, () => {
      to.nest(NFTA_DATA_VERDICT | NLA_F_NESTED, () => {
        to.be32(NFTA_VERDICT_CODE, code);
        if (chain !== undefined) to.cstring(NFTA_VERDICT_CHAIN, chain);
      });
    });
  },
  lookup(to, { set, sreg, dreg, setId, flags }) {
    to.be32(NFTA_LOOKUP_SREG, sreg);
    if (dreg !== undefined) to.be32(NFTA_LOOKUP_DREG, dreg);
    to.cstring(NFTA_LOOKUP_SET, set);
    if (setId !== undefined) to.be32(NFTA_LOOKUP_SET_ID, setId);
    if (flags !== undefined) to.be32(NFTA_LOOKUP_FLAGS, flags);
  },
  meta(to, { key, dreg }) {
    to.be32(NFTA_META_KEY, key);
    to.be32(NFTA_META_DREG, dreg);
  },
  "meta set"(to, { key, sreg }) {
    to.be32(NFTA_META_KEY, key);
    to.be32(NFTA_META_SREG, sreg);
  },
  other(to, { data }) {
    to.raw(data);
  },
  payload(to, { base, offset, length, dreg }) {
    to.be32(NFTA_PAYLOAD_DREG, dreg);
    to.be32(NFTA_PAYLOAD_BASE, base);
    to.be32(NFTA_PAYLOAD_OFFSET, offset);
    to.be32(NFTA_PAYLOAD_LEN, length);
  },
  range(to, { op, sreg, from, to: last }) {
    to.be32(NFTA_RANGE_SREG, sreg);
    to.be32(NFTA_RANGE_OP, op);
    writeData(to, NFTA_RANGE_FROM_DATA, from);
    writeData(to, NFTA_RANGE_TO_DATA, last);
  },
  socket(to, { key, dreg }) {
    to.be32(NFTA_SOCKET_KEY, key);
    to.be32(NFTA_SOCKET_DREG, dreg);
  },
  tproxy(to, { family, addressRegister, portRegister }) {
    to.be32(NFTA_TPROXY_FAMILY, family);
    if (addressRegister !== undefined) to.be32(NFTA_TPROXY_REG_ADDR, addressRegister);
    if (portRegister !== undefined) to.be32(NFTA_TPROXY_REG_PORT, portRegister);
  },
};

/** By the kernel's name; undefined for a form of the expression that has no type here. */
const decoders: Readonly<Record<string, (from: Attributes) => Expression | undefined>> = {
  bitwise(from) {
    if ((from.be32(NFTA_BITWISE_OP) ?? NFT_BITWISE_MASK_XOR) !== NFT_BITWISE_MASK_XOR) return;
    const [sreg, dreg] = [from.be32(NFTA_BITWISE_SREG), from.be32(NFTA_BITWISE_DREG)];
    const [mask, xor] = [readData(from, NFTA_BITWISE_MASK), readData(from, NFTA_BITWISE_XOR)];
    if (mask === undefined || xor === undefined || mask.length !== xor.length) return;
    return {
      kind: "bitwise",
      sreg: required(sreg, "NFTA_BITWISE_SREG"),
      dreg: required(dreg, "NFTA_BITWISE_DREG"),
      mask,
      xor,
    };
  },
  cmp(from) {
    return {
      kind: "cmp",
      op: required(from.be32(NFTA_CMP_OP), "NFTA_CMP_OP"),
      sreg: required(from.be32(NFTA_CMP_SREG), "NFTA_CMP_SREG"),
      data: required(readData(from, NFTA_CMP_DATA), "NFTA_CMP_DATA"),
    };
  },
  counter(from) {
    return {
      kind: "counter",
      packets: from.be64(NFTA_COUNTER_PACKETS) ?? 0n,
      bytes: from.be64(NFTA_COUNTER_BYTES) ?? 0n,
    };
  },
  ct(from) {
    const dreg = from.be32(NFTA_CT_DREG);
    if (dreg === undefined || from.has(NFTA_CT_DIRECTION)) return;
    return { kind: "ct", key: required(from.be32(NFTA_CT_KEY), "NFTA_CT_KEY"), dreg };
  },
  fib(from) {
    return {
      kind: "fib",
      result: required(from.be32(NFTA_FIB_RESULT), "NFTA_FIB_RESULT"),
      flags: from.be32(NFTA_FIB_FLAGS) ?? 0,
      dreg: required(from.be32(NFTA_FIB_DREG), "NFTA_FIB_DREG"),
    };
  },
  immediate(from) {
    const dreg = required(from.be32(NFTA_IMMEDIATE_DREG), "NFTA_IMMEDIATE_DREG");
    const decision = readVerdict(from, NFTA_IMMEDIATE_DATA);
    if (decision === undefined) {
      const data = required(readData(from, NFTA_IMMEDIATE_DATA), "NFTA_DATA_VALUE");
      return { kind: "immediate", dreg, data };
    }
    return dreg === NFT_REG_VERDICT ? { kind: "verdict", ...decision } : undefined;
  },
  lookup(from) {
    return defined({
      kind: "lookup",
      set: required(from.string(NFTA_LOOKUP_SET), "NFTA_LOOKUP_SET"),
      sreg: required(from.be32(NFTA_LOOKUP_SREG), "NFTA_LOOKUP_SREG"),
      dreg: from.be32(NFTA_LOOKUP_DREG),
      setId: from.be32(NFTA_LOOKUP_SET_ID),
      flags: from.be32(NFTA_LOOKUP_FLAGS) || undefined,
    });
  },
  meta(from) {
    const key = required(from.be32(NFTA_META_KEY), "NFTA_META_KEY");
    const dreg = from.be32(NFTA_META_DREG);
    if (dreg !== undefined) return { kind: "meta", key, dreg };
    return { kind: "meta set", key, sreg: required(from.be32(NFTA_META_SREG), "NFTA_META_SREG") };
  },
  payload(from) {
    const dreg = from.be32(NFTA_PAYLOAD_DREG);
    if (dreg === undefined) return;
    return {
      kind: "payload",
      base: required(from.be32(NFTA_PAYLOAD_BASE), "NFTA_PAYLOAD_BASE"),
      offset: required(from.be32(NFTA_PAYLOAD_OFFSET), "NFTA_PAYLOAD_OFFSET"),
      length: required(from.be32(NFTA_PAYLOAD_LEN), "NFTA_PAYLOAD_LEN"),
      dreg,
    };
  },
  range(from) {
    return {
      kind: "range",
      op: required(from.be32(NFTA_RANGE_OP), "NFTA_RANGE_OP"),
      sreg: required(from.be32(NFTA_RANGE_SREG), "NFTA_RANGE_SREG"),
      from: required(readData(from, NFTA_RANGE_FROM_DATA), "NFTA_RANGE_FROM_DATA"),
      to: required(readData(from, NFTA_RANGE_TO_DATA), "NFTA_RANGE_TO_DATA"),
    };
  },
  socket(from) {
    // The level of a control group; nft writes 0 for the other keys.
    if (from.be32(NFTA_SOCKET_LEVEL)) return;
    return {
      kind: "socket",
      key: required(from.be32(NFTA_SOCKET_KEY), "NFTA_SOCKET_KEY"),
      dreg: required(from.be32(NFTA_SOCKET_DREG), "NFTA_SOCKET_DREG"),
    };
  },
  tproxy(from) {
    return defined({
      kind: "tproxy",
      family: required(from.be32(NFTA_TPROXY_FAMILY), "NFTA_TPROXY_FAMILY"),
      addressRegister: from.be32(NFTA_TPROXY_REG_ADDR),
      portRegister: from.be32(NFTA_TPROXY_REG_PORT),
    });
  },
};

/** The kernel's name of an expression: several kinds here are one there. */
function kernelName(expression: Expression): string {
  if (expression.kind === "other") return expression.name;
  if (expression.kind === "meta set") return "meta";
  return expression.kind === "verdict" ? "immediate" : expression.kind;
}

/** Writes the members of a NFTA_LIST_ELEM: the expression's name and data. */
export function encodeExpression(to: Writer, expression: Expression): void {
  to.cstring(NFTA_EXPR_NAME, kernelName(expression));
  to.nest(NFTA_EXPR_DATA | NLA_F_NESTED, () => {
    const encode = encoders[expression.kind] as (to: Writer, expression: Expression) => void;
    encode(to, expression);
  });
}

/**
 * Decodes the payload of a NFTA_LIST_ELEM.
 * @throws WireError
 */
export function decodeExpression(bytes: Uint8Array): Expression {
  const attributes = new Attributes(bytes);
  const name = required(attributes.string(NFTA_EXPR_NAME), "NFTA_EXPR_NAME");
  const data = attributes.bytes(NFTA_EXPR_DATA) ?? new Uint8Array();
  const decode = Object.hasOwn(decoders, name) ? decoders[name] : undefined;
  return decode?.(new Attributes(data)) ?? { kind: "other", name, data };
}

/** A value in the form that registers are compared with: NFTA_DATA_VALUE. */
export function writeData(to: Writer, type: number, value: Uint8Array): void {
  to.nest(type | NLA_F_NESTED, () => to.bytes(NFTA_DATA_VALUE, value));
}

/** The inverse of `writeData`; undefined when it is absent or no value. */
export function readData(from: Attributes, type: number): Uint8Array | undefined {
  return from.nested(type)?.bytes(NFTA_DATA_VALUE);
}

/** A verdict in the place of a value: NFTA_DATA_VERDICT; undefined if there is none. */
export function readVerdict(
  from: Attributes,
  type: number,
): { readonly code: number; readonly chain?: string } | undefined {
  const decision = from.nested(type)?.nested(NFTA_DATA_VERDICT);
  if (decision === undefined) return undefined;
  return defined({
    code: required(decision.signed32(NFTA_VERDICT_CODE), "NFTA_VERDICT_CODE"),
    chain: decision.string(NFTA_VERDICT_CHAIN),
  });
}
