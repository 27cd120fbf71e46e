/**
 * The expressions of nf_tables that `ffi/` has no type for, since tproxy makes none of them: what
 * each means for one packet. Pure. Attributes: linux/netfilter/nf_tables.h.
 */

import { NF_DROP, NFT_CT_MARK, NFTA_CT_KEY, NFTA_CT_SREG } from "../../../ffi/netlink/constants.ts";
import { Attributes } from "../../../ffi/netlink/wire.ts";
import { type Bits, fromHost32, isKnown, known, masked, ternary, unknownBits } from "./bits.ts";
import type { ChainContext } from "./context.ts";
import { fails, matches, maybe, type Outcome } from "./effect.ts";
import type { Registers } from "./registers.ts";
import type { PacketState } from "./state.ts";
import { runCompat } from "./xtables.ts";

const NFTA_EXPR_NAME = 1;
const NFTA_EXPR_DATA = 2;
const NFTA_LIMIT_FLAGS = 5;
const NFT_LIMIT_F_INV = 1;
const NFTA_CONNLIMIT_FLAGS = 2;
const NFTA_QUOTA_BYTES = 1;
const NFTA_QUOTA_FLAGS = 2;
const NFTA_QUOTA_CONSUMED = 4;
const NFT_QUOTA_F_INV = 1;
const NFTA_NAT_TYPE = 1;
const NFT_NAT_SNAT = 0;
const NFTA_DYNSET_EXPR = 7;
const NFTA_DYNSET_FLAGS = 9;
const NFTA_DYNSET_EXPRESSIONS = 10;
const NFT_DYNSET_F_INV = 1;
const NFTA_OBJREF_IMM_TYPE = 1;
const NFT_OBJECT_QUOTA = 2;
const NFT_OBJECT_LIMIT = 4;
const NFT_OBJECT_CONNLIMIT = 5;
const NFT_OBJECT_SYNPROXY = 10;
const NFTA_PAYLOAD_SREG = 5;
const NFTA_EXTHDR_DREG = 1;
const NFTA_EXTHDR_LEN = 4;
const NFTA_EXTHDR_FLAGS = 5;
const NFTA_EXTHDR_OP = 6;
const NFT_EXTHDR_F_PRESENT = 1;

/** An expression in a rule: what it can read and write. */
export interface Running {
  readonly context: ChainContext;
  readonly state: PacketState;
  readonly registers: Registers;
}

type Run = (from: Attributes, running: Running, data: Uint8Array) => Outcome;

/** Expressions that load something that no packet tells before it is there, and where they do. */
function loads(registerAttribute: number): Run {
  return (from, { registers }) => {
    registers.write(from.be32(registerAttribute) ?? 0, unknownBits(16));
    return matches;
  };
}

const stays: Run = () => matches;
/** How large a first packet is at least, for quotas. */
const packetBytes = 40n;

const expressions: Readonly<Record<string, Run>> = {
  bitwise,
  byteorder,
  connlimit: (from) => limited(from.be32(NFTA_CONNLIMIT_FLAGS)),
  ct: setConnection,
  dup: stays,
  dynset,
  exthdr,
  flow_offload: stays,
  fwd: () => ({ kind: "verdict", code: NF_DROP }),
  hash: loads(2),
  inner: () => maybe("a header within"),
  last: stays,
  limit: (from) => limited(from.be32(NFTA_LIMIT_FLAGS)),
  log: stays,
  masq: () => ({ kind: "rewrite", side: "source" }),
  match: (_, { context, state }, data) => runCompat("match", data, context, state),
  nat: (from) => {
    return {
      kind: "rewrite",
      side: from.be32(NFTA_NAT_TYPE) === NFT_NAT_SNAT ? "source" : "destination",
    };
  },
  notrack: () => ({ kind: "untracked" }),
  numgen: loads(1),
  objref,
  osf: loads(1),
  payload: (from) => (from.has(NFTA_PAYLOAD_SREG) ? matches : maybe("bytes of the packet")),
  queue: () => ({ kind: "unknown", reason: "a program decides (queue)" }),
  quota,
  redir: () => ({ kind: "rewrite", side: "destination" }),
  reject: () => ({ kind: "verdict", code: NF_DROP }),
  rt: loads(1),
  secmark: stays,
  // The level of a control group, of which only a packet of this host has one.
  socket: (from, { context, registers }) => {
    if (context.packet.owner !== undefined || context.packet.socket === undefined) return fails;
    registers.write(from.be32(2) ?? 0, unknownBits(8));
    return matches;
  },
  synproxy: () => ({ kind: "unknown", reason: "synproxy answers in its place" }),
  target: (_, { context, state }, data) => runCompat("target", data, context, state),
  tunnel: loads(2),
  xfrm: loads(1),
};

/** Carries out an expression that has no type. */
export function runOther(
  expression: { readonly name: string; readonly data: Uint8Array },
  running: Running,
): Outcome {
  const { name, data } = expression;
  const run = Object.hasOwn(expressions, name) ? expressions[name] : undefined;
  return run?.(new Attributes(data), running, data) ?? { kind: "unknown", reason: `"${name}"` };
}

/** A packet that comes alone is within the limit: `over` is what does not match then. */
function limited(flags = 0): Outcome {
  return { kind: "limit", answer: ternary((flags & NFT_LIMIT_F_INV) === 0) };
}

function quota(from: Attributes): Outcome {
  const bytes = from.be64(NFTA_QUOTA_BYTES);
  const isOver = (from.be64(NFTA_QUOTA_CONSUMED) ?? 0n) + packetBytes > (bytes ?? 0n);
  if (bytes === undefined) return maybe("a quota");
  const isInverted = ((from.be32(NFTA_QUOTA_FLAGS) ?? 0) & NFT_QUOTA_F_INV) !== 0;
  return { kind: "limit", answer: ternary(isOver === isInverted) };
}

/** An element is added or renewed, and the conditions that come with it are asked. */
function dynset(from: Attributes, running: Running): Outcome {
  if (((from.be32(NFTA_DYNSET_FLAGS) ?? 0) & NFT_DYNSET_F_INV) !== 0) return fails;
  const single = from.nested(NFTA_DYNSET_EXPR);
  const listed = from.list(NFTA_DYNSET_EXPRESSIONS).map(({ payload }) => new Attributes(payload));
  let result: Outcome = matches;
  for (const each of single === undefined ? listed : [single]) {
    const [name, data] = [each.string(NFTA_EXPR_NAME), each.bytes(NFTA_EXPR_DATA)];
    if (name === undefined || name === "counter") continue;
    const outcome = runOther({ name, data: data ?? new Uint8Array() }, running);
    if (outcome.kind === "limit" || outcome !== matches) result = outcome;
  }
  return result;
}

function objref(from: Attributes): Outcome {
  switch (from.be32(NFTA_OBJREF_IMM_TYPE)) {
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
function exthdr(from: Attributes, { registers }: Running): Outcome {
  const register = from.be32(NFTA_EXTHDR_DREG);
  if (register === undefined) return matches;
  const isIpv6 = (from.be32(NFTA_EXTHDR_OP) ?? 0) === 0;
  const asksPresence = ((from.be32(NFTA_EXTHDR_FLAGS) ?? 0) & NFT_EXTHDR_F_PRESENT) !== 0;
  if (isIpv6 && !asksPresence) return fails;
  const length = asksPresence ? 1 : (from.be32(NFTA_EXTHDR_LEN) ?? 16);
  registers.write(register, isIpv6 ? known(Uint8Array.of(0)) : unknownBits(length));
  return matches;
}

/** `ct mark set` and the like. */
function setConnection(from: Attributes, { registers }: Running): Outcome {
  const [register, loaded] = [from.be32(NFTA_CT_SREG), from.be32(1)];
  if (register === undefined) {
    registers.write(loaded ?? 0, unknownBits(16));
    return matches;
  }
  if (from.be32(NFTA_CT_KEY) !== NFT_CT_MARK) return matches;
  const { value, known: mask } = fromHost32(registers.read(register, 4));
  return { kind: "connection mark", mark: value, known: mask };
}

/** Turns each number of `size` bytes round. */
function byteorder(from: Attributes, { registers }: Running): Outcome {
  const [sreg, dreg, length, size] = [1, 2, 4, 5].map((type) => from.be32(type) ?? 0) as [
    number,
    number,
    number,
    number,
  ];
  const turn = (bytes: Uint8Array) =>
    bytes.map((_, i) => bytes[i - (i % size) + size - 1 - (i % size)] ?? 0);
  const { value, known: mask } = registers.read(sreg, length);
  registers.write(dreg, size < 1 ? unknownBits(length) : { value: turn(value), known: turn(mask) });
  return matches;
}

/** Shifts of 4 bytes, and the operators of Linux 6.13; other forms are not known here. */
function bitwise(from: Attributes, { registers }: Running): Outcome {
  const [SREG, DREG, LEN, OP, DATA] = [1, 2, 3, 6, 7];
  const [LSHIFT, RSHIFT, AND, OR, XOR] = [1, 2, 3, 4, 5];
  const length = from.be32(LEN) ?? 4;
  const operand = from.nested(DATA)?.bytes(1);
  const bits = registers.read(from.be32(SREG) ?? 0, length);
  registers.write(from.be32(DREG) ?? 0, result() ?? unknownBits(length));
  return matches;

  function result(): Bits | undefined {
    if (operand === undefined) return undefined;
    const op = from.be32(OP);
    const invert = operand.map((byte) => ~byte & 0xff);
    if (op === AND) return masked(bits, operand, new Uint8Array(length));
    if (op === OR) return masked(bits, invert, operand);
    if (op === XOR) return masked(bits, new Uint8Array(length).fill(0xff), operand);
    if (length !== 4 || !isKnown(bits)) return undefined;
    const by = new DataView(operand.buffer, operand.byteOffset).getUint32(0, true);
    const { value } = fromHost32(bits);
    const view = new DataView(new ArrayBuffer(4));
    if (op !== LSHIFT && op !== RSHIFT) return undefined;
    view.setUint32(0, op === LSHIFT ? value << by : value >>> by, true);
    return known(new Uint8Array(view.buffer));
  }
}
