/**
 * The expressions of nf_tables that tproxy makes none of: what each means for one packet. Pure.
 * Those that `ffi/` has a type for come by their kind, and the others by the kernel's name.
 */

import {
  NF_DROP,
  NFT_DYNSET_F_INV,
  NFT_OBJECT_CONNLIMIT,
  NFT_OBJECT_LIMIT,
  NFT_OBJECT_QUOTA,
  NFT_OBJECT_SYNPROXY,
  NFTA_DYNSET_EXPR,
  NFTA_DYNSET_EXPRESSIONS,
  NFTA_DYNSET_FLAGS,
  NFTA_OSF_DREG,
  NFTA_RT_DREG,
  NFTA_TUNNEL_DREG,
  NFTA_XFRM_DREG,
} from "../../../ffi/netlink/constants.ts";
import {
  type BitOperation,
  NFT_BITWISE_AND,
  NFT_BITWISE_LSHIFT,
  NFT_BITWISE_OR,
  NFT_BITWISE_RSHIFT,
  NFT_BITWISE_XOR,
} from "../../../ffi/netlink/nftables/expr/bitwise.ts";
import type { Byteorder } from "../../../ffi/netlink/nftables/expr/byteorder.ts";
import { NFT_CONNLIMIT_F_INV } from "../../../ffi/netlink/nftables/expr/connlimit.ts";
import { type ConntrackSet, NFT_CT_MARK } from "../../../ffi/netlink/nftables/expr/ct.ts";
import {
  type ExtensionHeader,
  NFT_EXTHDR_F_PRESENT,
  NFT_EXTHDR_OP_IPV6,
} from "../../../ffi/netlink/nftables/expr/exthdr.ts";
import type { Hash } from "../../../ffi/netlink/nftables/expr/hash.ts";
import { NFT_LIMIT_F_INV } from "../../../ffi/netlink/nftables/expr/limit.ts";
import { NFT_NAT_SNAT } from "../../../ffi/netlink/nftables/expr/nat.ts";
import type { NumberGenerator } from "../../../ffi/netlink/nftables/expr/numgen.ts";
import type { ObjectReference } from "../../../ffi/netlink/nftables/expr/objref.ts";
import { NFT_QUOTA_F_INV, type Quota } from "../../../ffi/netlink/nftables/expr/quota.ts";
import {
  decodeExpression,
  type Expression,
  type OtherExpression,
} from "../../../ffi/netlink/nftables/expressions.ts";
import { fromHostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import { Attributes } from "../../../ffi/netlink/wire.ts";
import {
  type Bits,
  fromHost32,
  host32,
  isKnown,
  known,
  masked,
  ternary,
  unknownBits,
} from "./bits.ts";
import type { ChainContext } from "./context.ts";
import { fails, matches, maybe, type Outcome } from "./effect.ts";
import type { Registers } from "./registers.ts";
import type { PacketState } from "./state.ts";
import { runExtension } from "./xtables.ts";

/** An expression in a rule: what it can read and write. */
export interface Running {
  readonly context: ChainContext;
  readonly state: PacketState;
  readonly registers: Registers;
}

/** The kinds that this file knows. */
type Foreign =
  | "bit operation"
  | "byteorder"
  | "connlimit"
  | "ct set"
  | "exthdr"
  | "flow_offload"
  | "hash"
  | "limit"
  | "masq"
  | "match"
  | "nat"
  | "numgen"
  | "objref"
  | "payload set"
  | "quota"
  | "redir"
  | "reject"
  | "target";
/** Such an expression, or one that has no type. */
export type ForeignExpression = Extract<Expression, { kind: Foreign | "other" }>;

type Of<Kind extends Expression["kind"]> = Extract<Expression, { kind: Kind }>;

const byKind: { readonly [Kind in Foreign]: (of: Of<Kind>, running: Running) => Outcome } = {
  "bit operation": operate,
  byteorder,
  connlimit: ({ flags }) => limited((flags & NFT_CONNLIMIT_F_INV) !== 0),
  "ct set": setConnection,
  exthdr,
  flow_offload: () => matches,
  hash: drawn,
  limit: ({ flags }) => limited((flags & NFT_LIMIT_F_INV) !== 0),
  masq: () => ({ kind: "rewrite", side: "source" }),
  match: (extension, { context, state }) => runExtension(extension, context, state),
  nat: ({ type }) => ({
    kind: "rewrite",
    side: type === NFT_NAT_SNAT ? "source" : "destination",
  }),
  numgen: drawn,
  objref,
  "payload set": () => matches,
  quota,
  redir: () => ({ kind: "rewrite", side: "destination" }),
  reject: () => ({ kind: "verdict", code: NF_DROP }),
  target: (extension, { context, state }) => runExtension(extension, context, state),
};

type Run = (from: Attributes, running: Running) => Outcome;

/** Expressions that load a value that only a real packet has, and their registers. */
function loads(registerAttribute: number): Run {
  return (from, { registers }) => {
    registers.write(from.be32(registerAttribute) ?? 0, unknownBits(16));
    return matches;
  };
}

const stays: Run = () => matches;

const byName: Readonly<Record<string, Run>> = {
  dup: stays,
  dynset,
  fwd: () => ({ kind: "verdict", code: NF_DROP }),
  inner: () => maybe("a header within"),
  last: stays,
  log: stays,
  notrack: () => ({ kind: "untracked" }),
  osf: loads(NFTA_OSF_DREG),
  queue: () => ({ kind: "unknown", reason: "a program decides (queue)" }),
  rt: loads(NFTA_RT_DREG),
  secmark: stays,
  synproxy: () => ({ kind: "unknown", reason: "synproxy answers in its place" }),
  tunnel: loads(NFTA_TUNNEL_DREG),
  xfrm: loads(NFTA_XFRM_DREG),
};

/** Carries out an expression that tproxy makes none of. */
export function runForeign(expression: ForeignExpression, running: Running): Outcome {
  if (expression.kind === "other") return runOther(expression, running);
  const run = byKind[expression.kind] as (of: ForeignExpression, running: Running) => Outcome;
  return run(expression, running);
}

function runOther({ name, data }: OtherExpression, running: Running): Outcome {
  const run = Object.hasOwn(byName, name) ? byName[name] : undefined;
  return run?.(new Attributes(data), running) ?? { kind: "unknown", reason: `"${name}"` };
}

/** A packet that comes alone is within the limit: `over` is what does not match then. */
function limited(isInverted: boolean): Outcome {
  return { kind: "limit", answer: ternary(!isInverted) };
}

/** How large a first packet is at least, for quotas. */
const packetBytes = 40n;

function quota({ bytes, consumed, flags }: Quota): Outcome {
  const isInverted = (flags & NFT_QUOTA_F_INV) !== 0;
  return { kind: "limit", answer: ternary(consumed + packetBytes > bytes === isInverted) };
}

/** An element is added or renewed, and the conditions that come with it are asked. */
function dynset(from: Attributes, running: Running): Outcome {
  if (((from.be32(NFTA_DYNSET_FLAGS) ?? 0) & NFT_DYNSET_F_INV) !== 0) return fails;
  const single = from.bytes(NFTA_DYNSET_EXPR);
  const listed = from.list(NFTA_DYNSET_EXPRESSIONS).map(({ payload }) => payload);
  let result: Outcome = matches;
  for (const each of (single === undefined ? listed : [single]).map(decodeExpression)) {
    if (each.kind === "counter") continue;
    const outcome = isForeign(each) ? runForeign(each, running) : maybe("a set's expression");
    if (outcome.kind === "limit" || outcome !== matches) result = outcome;
  }
  return result;
}

/** Whether `runForeign` is the one to carry it out. */
function isForeign(expression: Expression): expression is ForeignExpression {
  return expression.kind === "other" || Object.hasOwn(byKind, expression.kind);
}

/** A number that only the kernel draws, modulo a modulus. */
function drawn({ dreg }: Hash | NumberGenerator, { registers }: Running): Outcome {
  registers.write(dreg, unknownBits(4));
  return matches;
}

function objref({ type }: ObjectReference): Outcome {
  switch (type) {
    case NFT_OBJECT_QUOTA:
      return maybe("a named quota");
    case NFT_OBJECT_LIMIT:
    case NFT_OBJECT_CONNLIMIT:
      return maybe("a named limit");
    case NFT_OBJECT_SYNPROXY:
      return { kind: "unknown", reason: "synproxy answers in its place" };
    default:
      return matches;
  }
}

/** A header of IPv6 that the packet does not have, or an option that it may have. */
function exthdr(expression: ExtensionHeader, { registers }: Running): Outcome {
  const { op, dreg, length, flags = 0 } = expression;
  if (dreg === undefined) return matches;
  const isIpv6 = op === NFT_EXTHDR_OP_IPV6;
  const asksPresence = (flags & NFT_EXTHDR_F_PRESENT) !== 0;
  if (isIpv6 && !asksPresence) return fails;
  const loaded = unknownBits(asksPresence ? 1 : length);
  registers.write(dreg, isIpv6 ? known(Uint8Array.of(0)) : loaded);
  return matches;
}

/** `ct mark set` and the like. */
function setConnection({ key, sreg }: ConntrackSet, { registers }: Running): Outcome {
  if (key !== NFT_CT_MARK) return matches;
  const { value, known: mask } = fromHost32(registers.read(sreg, 4));
  return { kind: "connection mark", mark: value, known: mask };
}

/** Turns each number of `size` bytes round. */
function byteorder({ sreg, dreg, length, size }: Byteorder, { registers }: Running): Outcome {
  const turn = (bytes: Uint8Array) =>
    bytes.map((_, i) => bytes[i - (i % size) + size - 1 - (i % size)] ?? 0);
  const { value, known: mask } = registers.read(sreg, length);
  registers.write(dreg, size < 1 ? unknownBits(length) : { value: turn(value), known: turn(mask) });
  return matches;
}

/** Shifts of 4 bytes, and the operators of Linux 6.13; other forms are not known here. */
function operate(expression: BitOperation, { registers }: Running): Outcome {
  const bits = registers.read(expression.sreg, expression.length);
  registers.write(expression.dreg, operated(expression, bits) ?? unknownBits(expression.length));
  return matches;
}

function operated({ op, length, operand }: BitOperation, bits: Bits): Bits | undefined {
  if (operand === undefined) return undefined;
  switch (op) {
    case NFT_BITWISE_AND:
      return masked(bits, operand, new Uint8Array(length));
    case NFT_BITWISE_OR:
      return masked(
        bits,
        operand.map((byte) => ~byte & 0xff),
        operand,
      );
    case NFT_BITWISE_XOR:
      return masked(bits, new Uint8Array(length).fill(0xff), operand);
    case NFT_BITWISE_LSHIFT:
    case NFT_BITWISE_RSHIFT: {
      if (length !== 4 || operand.length !== 4 || !isKnown(bits)) return undefined;
      const by = fromHostOrder32(operand);
      const { value } = fromHost32(bits);
      return host32(op === NFT_BITWISE_LSHIFT ? value << by : value >>> by);
    }
    default:
      return undefined;
  }
}
