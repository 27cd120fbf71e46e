/** One rule of nf_tables as the kernel runs it: expression by expression, over registers. Pure. */

import { NFPROTO_IPV6, NFT_REG_VERDICT } from "../../../ffi/netlink/constants.ts";
import { type Lookup, NFT_LOOKUP_F_INV } from "../../../ffi/netlink/nftables/expr/lookup.ts";
import { NFT_META_MARK } from "../../../ffi/netlink/nftables/expr/meta.ts";
import { NFT_RANGE_NEQ } from "../../../ffi/netlink/nftables/expr/range.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { findInSet, setKey } from "../snapshot/ruleset.ts";
import { compares, fromHost32, masked, not, unknownBits, within } from "./bits.ts";
import type { ChainContext } from "./context.ts";
import { condition, fails, matches, maybe, type Outcome } from "./effect.ts";
import { loadFib } from "./fib.ts";
import { type Loaded, loadConntrack, loadMeta, loadPayload, loadSocket } from "./loads.ts";
import { runForeign } from "./other.ts";
import { Registers } from "./registers.ts";
import type { PacketState } from "./state.ts";

/** Fills a register from the packet and its surroundings. */
type Load = Extract<Expression, { kind: "meta" | "ct" | "fib" | "payload" | "socket" }>;

/** The registers of one rule while it looks at one packet. */
export class RuleRun {
  private readonly registers = new Registers();
  private readonly context: ChainContext;
  private readonly rule: FirewallRule;

  constructor(context: ChainContext, rule: FirewallRule) {
    this.context = context;
    this.rule = rule;
  }

  /** Carries out the next expression on a packet in this state. */
  run(expression: Expression, state: PacketState): Outcome {
    switch (expression.kind) {
      case "cmp": {
        const { sreg, op, data } = expression;
        return this.compared(compares(op, this.registers.read(sreg, data.length), data));
      }
      case "range": {
        const { sreg, from, to, op } = expression;
        const answer = within(this.registers.read(sreg, from.length), from, to);
        return this.compared(op === NFT_RANGE_NEQ ? not(answer) : answer);
      }
      case "lookup":
        return this.lookUp(expression);
      case "immediate":
        this.registers.write(expression.dreg, {
          value: expression.data,
          known: new Uint8Array(expression.data.length).fill(0xff),
        });
        return matches;
      case "bitwise": {
        const { sreg, dreg, mask, xor } = expression;
        this.registers.write(dreg, masked(this.registers.read(sreg, mask.length), mask, xor));
        return matches;
      }
      case "counter":
        return matches;
      case "verdict":
        return { kind: "verdict", code: expression.code, chain: expression.chain };
      case "meta set": {
        if (expression.key !== NFT_META_MARK) return matches;
        const { value, known } = fromHost32(this.registers.read(expression.sreg, 4));
        return { kind: "mark", mark: value, known };
      }
      case "tproxy":
        return this.tproxy(expression);
      case "ct":
      case "fib":
      case "meta":
      case "payload":
      case "socket":
        return this.load(expression, state);
      default:
        return runForeign(expression, { context: this.context, state, registers: this.registers });
    }
  }

  private compared(answer: Parameters<typeof condition>[0]): Outcome {
    return condition(answer, this.reason);
  }

  /** The doubt that the last load left. */
  private reason = "a value";

  private load(expression: Load, state: PacketState): Outcome {
    const loaded = this.loaded(expression, state);
    this.reason = reasons[expression.kind];
    if (loaded === "break") return fails;
    this.registers.write(expression.dreg, loaded);
    return matches;
  }

  private loaded(expression: Load, state: PacketState): Loaded {
    switch (expression.kind) {
      case "meta":
        return loadMeta(this.context, state, expression);
      case "ct":
        return loadConntrack(this.context, state, expression);
      case "fib":
        return loadFib(this.context, state, expression);
      case "payload":
        return loadPayload(this.context, expression);
      case "socket":
        return loadSocket(this.context, expression);
    }
  }

  private lookUp({ set, sreg, dreg, flags = 0 }: Lookup): Outcome {
    const { family, table } = this.rule;
    const contents = this.context.ruleset.sets.get(setKey(family, table, set));
    const reason = set.startsWith("__") ? this.reason : `set ${set}`;
    if (contents === undefined) {
      const unread = `set ${set}, which cannot be read`;
      if (dreg === NFT_REG_VERDICT) return { kind: "unknown", reason: unread };
      if (dreg !== undefined) this.registers.write(dreg, unknownBits(16));
      return maybe(unread);
    }
    const key = this.registers.read(sreg, contents.keyLength);
    const { isFound, entries } = findInSet(contents, key);
    const isInverted = (flags & NFT_LOOKUP_F_INV) !== 0;
    if (dreg === undefined) return condition(isInverted ? not(isFound) : isFound, reason);
    if (isFound === "no") return fails;
    const [only] = entries;
    const isSure = isFound === "yes" && entries.length === 1;
    if (dreg === NFT_REG_VERDICT) {
      const verdicts = entries.flatMap(({ verdict }) => (verdict === undefined ? [] : [verdict]));
      if (isSure && only?.verdict !== undefined) return { kind: "verdict", ...only.verdict };
      return { kind: "verdicts", verdicts, mayMiss: isFound !== "yes", reason };
    }
    const data = only?.data;
    if (isSure && data !== undefined) {
      this.registers.write(dreg, { value: data, known: new Uint8Array(data.length).fill(0xff) });
      return matches;
    }
    this.registers.write(dreg, unknownBits(data?.length ?? 16));
    return condition(isFound, reason);
  }

  private tproxy(expression: Extract<Expression, { kind: "tproxy" }>): Outcome {
    const { addressRegister, portRegister, family } = expression;
    const width = family === NFPROTO_IPV6 ? 16 : 4;
    const bytes = portRegister === undefined ? undefined : this.registers.read(portRegister, 2);
    const [high = 0, low = 0] = bytes?.value ?? [];
    return {
      kind: "tproxy",
      port: bytes === undefined ? this.context.packet.port : (high << 8) | low,
      address:
        addressRegister === undefined
          ? undefined
          : this.registers.read(addressRegister, width).value,
    };
  }
}

const reasons = {
  meta: "what it asks of the packet",
  ct: "what it asks of the connection",
  fib: "what it asks of the routes",
  payload: "bytes of the packet",
  socket: "what it asks of the socket",
} as const;
