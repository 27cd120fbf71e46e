/** One rule of nf_tables as the kernel runs it: expression by expression, over registers. Pure. */

import {
  NF_DROP,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_CMP_EQ,
  NFT_CMP_GT,
  NFT_CMP_GTE,
  NFT_CMP_LT,
  NFT_CMP_LTE,
  NFT_CMP_NEQ,
  NFT_CT_DIRECTION,
  NFT_FIB_RESULT_ADDRTYPE,
  NFT_LOOKUP_F_INV,
  NFT_META_IIFNAME,
  NFT_META_L4PROTO,
  NFT_META_MARK,
  NFT_META_NFPROTO,
  NFT_META_OIFNAME,
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_PAYLOAD_TRANSPORT_HEADER,
  NFT_RANGE_NEQ,
  NFT_SOCKET_TRANSPARENT,
  NFT_SOCKET_WILDCARD,
  NFTA_FIB_F_DADDR,
} from "../../ffi/netlink/constants.ts";
import type { Expression } from "../../ffi/netlink/nftables/expressions.ts";
import type { FirewallRule } from "../../ffi/netlink/nftables/rule.ts";
import type { Packet } from "./packet.ts";
import { type Ruleset, setKey } from "./ruleset.ts";
import { type CompatEffect, readCompat } from "./xtables.ts";

/** What a rule does to a packet. */
export type Effect =
  | CompatEffect
  | { readonly kind: "verdict"; readonly code: number; readonly chain?: string | undefined };

/** The registers of one rule. */
export class Machine {
  /** A condition has been met of which nothing is known. */
  isMaybe = false;
  mark: number;
  private readonly packet: Packet;
  private readonly ruleset: Ruleset;
  private readonly rule: FirewallRule;
  private readonly registers = new Uint8Array(16 * 5);
  private readonly poisoned = new Set<number>();

  constructor(packet: Packet, mark: number, ruleset: Ruleset, rule: FirewallRule) {
    this.packet = packet;
    this.mark = mark;
    this.ruleset = ruleset;
    this.rule = rule;
  }

  run(expression: Expression): Effect | "next" | "no match" {
    switch (expression.kind) {
      case "cmp":
      case "range":
      case "lookup":
        return this.compare(expression);
      case "immediate":
        return this.load(expression.dreg, expression.data);
      case "bitwise": {
        const { sreg, dreg, mask, xor } = expression;
        const value = this.read(sreg, mask.length);
        const result = value.map((byte, i) => (byte & (mask[i] ?? 0)) ^ (xor[i] ?? 0));
        return this.load(dreg, this.poisoned.has(offsetOf(sreg)) ? undefined : result);
      }
      case "counter":
        return "next";
      case "verdict":
        return { kind: "verdict", code: expression.code, chain: expression.chain };
      case "meta set":
        return expression.key === NFT_META_MARK
          ? { kind: "mark", mark: u32(this.read(expression.sreg, 4)) }
          : "next";
      case "tproxy": {
        const { addressRegister, portRegister, family } = expression;
        const width = family === NFPROTO_IPV6 ? 16 : 4;
        const port = portRegister === undefined ? undefined : be16(this.read(portRegister, 2));
        return {
          kind: "tproxy",
          port: port ?? this.packet.port,
          address: addressRegister === undefined ? undefined : this.read(addressRegister, width),
          mark: undefined,
          isXtables: false,
        };
      }
      case "other":
        return this.other(expression);
      case "socket":
        if (this.packet.socket === undefined) return "no match";
        return this.load(expression.dreg, this.loaded(expression));
      default:
        return this.load(expression.dreg, this.loaded(expression));
    }
  }

  private other({ name, data }: Expression & { kind: "other" }): Effect | "next" | "no match" {
    if (name === "match" || name === "target") {
      const effect = readCompat(name, data, this.packet, this.mark);
      if (effect === "maybe") this.isMaybe = true;
      return effect === "maybe" || effect === "match" ? "next" : effect;
    }
    if (name === "log" || name === "limit" || name === "notrack") return "next";
    if (name === "reject") return { kind: "verdict", code: NF_DROP };
    return { kind: "unknown" };
  }

  private compare(
    expression: Expression & { kind: "cmp" | "range" | "lookup" },
  ): "next" | "no match" {
    const { sreg } = expression;
    if (this.poisoned.has(offsetOf(sreg))) return this.maybe();
    switch (expression.kind) {
      case "cmp": {
        const { data, op } = expression;
        return holds(op, Buffer.compare(this.read(sreg, data.length), data)) ? "next" : "no match";
      }
      case "range": {
        const { from, to, op } = expression;
        const value = this.read(sreg, from.length);
        const within = Buffer.compare(value, from) >= 0 && Buffer.compare(value, to) <= 0;
        return within !== (op === NFT_RANGE_NEQ) ? "next" : "no match";
      }
      case "lookup": {
        const { family, table } = this.rule;
        const ranges = this.ruleset.sets.get(setKey(family, table, expression.set));
        if (ranges === undefined) return this.maybe();
        const within = ranges.some(({ first, last }) => {
          const value = this.read(sreg, first.length);
          return Buffer.compare(value, first) >= 0 && Buffer.compare(value, last) <= 0;
        });
        const inverted = ((expression.flags ?? 0) & NFT_LOOKUP_F_INV) !== 0;
        return within !== inverted ? "next" : "no match";
      }
    }
  }

  private maybe(): "next" {
    this.isMaybe = true;
    return "next";
  }

  /** What a load finds; undefined if that cannot be known. */
  private loaded(expression: Expression): Uint8Array | undefined {
    const { packet } = this;
    const proto = packet.protocol === "tcp" ? 6 : 17;
    switch (expression.kind) {
      case "meta": {
        const family = packet.destination.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
        if (expression.key === NFT_META_MARK) return le32(this.mark);
        if (expression.key === NFT_META_NFPROTO) return Uint8Array.of(family);
        if (expression.key === NFT_META_L4PROTO) return Uint8Array.of(proto);
        if (expression.key === NFT_META_IIFNAME) return padded(packet.iif);
        return expression.key === NFT_META_OIFNAME ? padded("") : undefined;
      }
      case "payload":
        return slice(headerOf(packet, expression.base, proto), expression);
      case "ct":
        return expression.key === NFT_CT_DIRECTION
          ? Uint8Array.of(packet.socket === undefined ? 0 : 1)
          : undefined;
      case "fib":
        return expression.result === NFT_FIB_RESULT_ADDRTYPE &&
          (expression.flags & NFTA_FIB_F_DADDR) !== 0
          ? le32(packet.destinationType)
          : undefined;
      case "socket":
        if (expression.key === NFT_SOCKET_TRANSPARENT)
          return Uint8Array.of(Number(packet.socket?.transparent));
        if (expression.key === NFT_SOCKET_WILDCARD)
          return Uint8Array.of(Number(packet.socket?.wildcard));
        return undefined;
      default:
        return undefined;
    }
  }

  private load(dreg: number, value: Uint8Array | undefined): "next" {
    const at = offsetOf(dreg);
    if (value === undefined) this.poisoned.add(at);
    else {
      this.poisoned.delete(at);
      this.registers.set(value.subarray(0, this.registers.length - at), at);
    }
    return "next";
  }

  private read(sreg: number, length: number): Uint8Array {
    const at = offsetOf(sreg);
    return this.registers.slice(at, at + length);
  }
}

/** Where a register lies: NFT_REG_1 to 4 of 16 bytes, NFT_REG32_00 (8) and on of 4 over them. */
function offsetOf(register: number): number {
  return register < 8 ? 16 * Math.min(register, 4) : Math.min(16 + 4 * (register - 8), 76);
}

function holds(op: number, order: number): boolean {
  switch (op) {
    case NFT_CMP_EQ:
      return order === 0;
    case NFT_CMP_NEQ:
      return order !== 0;
    case NFT_CMP_LT:
      return order < 0;
    case NFT_CMP_LTE:
      return order <= 0;
    case NFT_CMP_GT:
      return order > 0;
    case NFT_CMP_GTE:
      return order >= 0;
    default:
      return false;
  }
}

/** As much of a header as the packet says; what it does not say is undefined. */
function headerOf(packet: Packet, base: number, proto: number): (number | undefined)[] {
  const { source, destination, port, sourcePort } = packet;
  if (base === NFT_PAYLOAD_TRANSPORT_HEADER) {
    const from = sourcePort === undefined ? [undefined, undefined] : bytesOf16(sourcePort);
    // The flags of a connection's first segment, or of what answers it.
    const rest: (number | undefined)[] = Array.from({ length: 16 }, () => undefined);
    if (proto === 6) rest[13 - 4] = packet.socket === undefined ? SYN : SYN | ACK;
    return [...from, ...bytesOf16(port), ...rest];
  }
  if (base !== NFT_PAYLOAD_NETWORK_HEADER) return [];
  const head: (number | undefined)[] = Array.from({ length: 12 }, () => undefined);
  if (source.family === 6) {
    head[6] = proto;
    return [...head.slice(0, 8), ...source.bytes, ...destination.bytes];
  }
  head[9] = proto;
  return [...head, ...source.bytes, ...destination.bytes];
}

function slice(
  header: readonly (number | undefined)[],
  { offset, length }: { offset: number; length: number },
): Uint8Array | undefined {
  const part = header.slice(offset, offset + length);
  if (part.length < length || part.includes(undefined)) return undefined;
  return Uint8Array.from(part as number[]);
}

const SYN = 0x02;
const ACK = 0x10;
const bytesOf16 = (value: number) => [value >> 8, value & 0xff];
const be16 = (bytes: Uint8Array) => ((bytes[0] as number) << 8) | (bytes[1] as number);

function u32(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

function le32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

function padded(name: string): Uint8Array {
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode(name).subarray(0, 16));
  return bytes;
}
