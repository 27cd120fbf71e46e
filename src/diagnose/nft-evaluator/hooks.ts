/**
 * Evaluates the firewall's rules on a packet as the kernel does. Pure.
 *
 * Base chains of a hook run in the order of their priorities; `accept` ends one of them, `drop`
 * all. A rule of which it cannot be told whether it matches is followed both ways: where that
 * makes a difference, the packet has several possible ends, and each knows the rules it depends on.
 */

import {
  NF_ACCEPT,
  NF_DROP,
  NF_INET_INGRESS,
  NF_NETDEV_EGRESS,
  NF_NETDEV_INGRESS,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFPROTO_NETDEV,
  NFT_CONTINUE,
  NFT_GOTO,
  NFT_JUMP,
  NFT_RETURN,
} from "../../../ffi/netlink/constants.ts";
import type { Chain } from "../../../ffi/netlink/nftables/chain.ts";
import { NFTA_FIB_F_SADDR } from "../../../ffi/netlink/nftables/expr/fib.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { defined } from "../../../ffi/netlink/wire.ts";
import { familyName } from "../../capture/live/describe.ts";
import type { Packet } from "../packet.ts";
import type { RuledChain } from "../snapshot/ruleset.ts";
import type { ChainContext, Surroundings } from "./context.ts";
import type { Effect, Outcome } from "./effect.ts";
import { RuleRun } from "./rule.ts";
import { mergeStates, type PacketState, type Touch, withDoubt } from "./state.ts";

export type { Doubt, Touch, TproxyTarget } from "./state.ts";

/** One way that a packet may go. */
export interface Trace extends PacketState {
  readonly verdict: "accept" | "drop";
  readonly dropped: Touch | undefined;
}

/** `NF_INET_*`, or the hook of an interface that packets pass before or after all others. */
export type Hook = number | "ingress" | "egress";

/** Sends packets through the base chains of one hook: all ways that they may go. */
export function passHook(
  surroundings: Surroundings,
  packet: Packet,
  hook: Hook,
  states: readonly PacketState[],
): readonly Trace[] {
  const ended: Trace[] = [];
  let live = [...states];
  for (const chain of baseChains(surroundings.ruleset.chains, packet, hook)) {
    const walk = new Walk(surroundings, packet, chain);
    const { through, dropped } = walk.base(live);
    live = through;
    ended.push(...dropped);
  }
  const alive = mergeStates(live).map((state): Trace => {
    return { ...state, verdict: "accept", dropped: undefined };
  });
  return [...alive, ...ended];
}

/**
 * The base chains that a packet meets at a hook, in their order. Of equal priorities the one that
 * was registered last runs first (nf_hook_entries_grow() of net/netfilter/core.c); the kernel
 * lists them as they were made.
 */
function baseChains(
  chains: readonly RuledChain[],
  packet: Packet,
  hook: Hook,
): readonly RuledChain[] {
  const proto = packet.destination.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
  const device = hook === "egress" ? packet.oif : packet.iif;
  return chains
    .filter(({ base, family }) => {
      if (base === undefined) return false;
      if (hook === "ingress" || hook === "egress") {
        const own = hook === "ingress" ? NF_NETDEV_INGRESS : NF_NETDEV_EGRESS;
        const isAtDevice =
          (family === NFPROTO_NETDEV && base.hook === own) ||
          (family === NFPROTO_INET && base.hook === NF_INET_INGRESS && hook === "ingress");
        return isAtDevice && base.devices?.includes(device ?? "") === true;
      }
      return base.hook === hook && (family === proto || family === NFPROTO_INET);
    })
    .filter(({ base }) => base?.type !== "nat" || (packet.stage ?? "first") === "first")
    .toReversed()
    .toSorted((a, b) => (a.base?.priority ?? 0) - (b.base?.priority ?? 0));
}

/** How a chain ends for a packet in some state. */
interface Ended {
  readonly state: PacketState;
  readonly verdict: "accept" | "drop";
  readonly touch: Touch;
}

/**
 * The packets that a rule leaves: those that go on with the next rule (`goesOn`: or with the next
 * expression of this one), that go back, that jump, and that have ended.
 */
type RuleEnd =
  | { readonly kind: "next"; readonly state: PacketState; readonly goesOn?: true }
  | { readonly kind: "return"; readonly state: PacketState }
  | {
      readonly kind: "jump";
      readonly state: PacketState;
      readonly chain: string;
      readonly goes: boolean;
    }
  | ({ readonly kind: "ended" } & Ended);

const jumpsMax = 16;

class Walk {
  private readonly context: ChainContext;
  private readonly chains: readonly RuledChain[];
  private readonly first: RuledChain;

  constructor(surroundings: Surroundings, packet: Packet, first: RuledChain) {
    const { type = "filter", hook = 0, priority = 0 } = first.base ?? {};
    const base = { family: first.family, hook, priority, type, name: chainName(first) };
    this.context = { ...surroundings, packet, base };
    this.first = first;
    this.chains = surroundings.ruleset.chains.filter(({ family, table, isLegacy }) => {
      return family === first.family && table === first.table && isLegacy === first.isLegacy;
    });
  }

  base(states: readonly PacketState[]): { through: PacketState[]; dropped: Trace[] } {
    const { through, ended } = this.chain(this.first, states, 0);
    const alive = ended.filter(({ verdict }) => verdict === "accept").map(({ state }) => state);
    const dropped = ended.flatMap(({ state, verdict, touch }): Trace[] => {
      return verdict === "drop" ? [{ ...state, verdict, dropped: touch }] : [];
    });
    if (this.first.base?.policy !== NF_DROP) {
      return { through: mergeStates([...alive, ...through]), dropped };
    }
    const { name } = this.context.base;
    const { isLegacy } = this.first;
    const touch = defined({ rule: name, base: name, isPolicy: true as const, isLegacy });
    const closed = through.map((state): Trace => ({ ...state, verdict: "drop", dropped: touch }));
    return { through: mergeStates(alive), dropped: [...dropped, ...closed] };
  }

  private chain(
    chain: RuledChain,
    states: readonly PacketState[],
    depth: number,
  ): { through: PacketState[]; ended: Ended[] } {
    const ended: Ended[] = [];
    const back: PacketState[] = [];
    let live = [...states];
    for (const rule of chain.rules) {
      const next: PacketState[] = [];
      for (const end of live.flatMap((state) => this.rule(rule, state))) {
        if (end.kind === "next") next.push(end.state);
        else if (end.kind === "return") back.push(end.state);
        else if (end.kind === "ended") ended.push(end);
        else {
          const target = this.chains.find(({ name }) => name === end.chain);
          const inner =
            target === undefined || depth >= jumpsMax
              ? { through: [end.state], ended: [] }
              : this.chain(target, [end.state], depth + 1);
          ended.push(...inner.ended);
          (end.goes ? back : next).push(...inner.through);
        }
      }
      live = mergeStates(next);
    }
    return { through: mergeStates([...back, ...live]), ended };
  }

  /** All that a rule may do to a packet. */
  private rule(rule: FirewallRule, from: PacketState): RuleEnd[] {
    // Named only where it does something: most rules of a large ruleset do not match.
    const touch = () => ({ ...touchOf(rule, this.first.isLegacy), base: this.context.base.name });
    const run = new RuleRun(this.context, rule);
    const ends: RuleEnd[] = [];
    let state = from;
    for (const expression of rule.expressions) {
      const outcome = run.run(expression, state);
      if (outcome.kind === "match" || outcome.kind === "limit") {
        if (outcome.kind === "limit" && decides(rule)) {
          state = { ...state, limited: [...state.limited, touch()] };
        }
        if (outcome.answer === "no") return [...ends, { kind: "next", state }];
        if (outcome.answer === "yes") continue;
        const reason = (outcome.kind === "match" && outcome.reason) || "a limit";
        ends.push({ kind: "next", state: withDoubt(state, touch(), reason, "no match") });
        state = withDoubt(state, touch(), reason, "match");
        continue;
      }
      const done = this.carryOut(outcome, touch(), state);
      const [only] = done;
      if (done.length === 1 && only?.kind === "next" && only.goesOn) {
        state = only.state;
        continue;
      }
      return [...ends, ...done];
    }
    return [...ends, { kind: "next", state }];
  }

  private carryOut(
    effect: Exclude<Outcome, { kind: "match" | "limit" }>,
    touch: Touch,
    state: PacketState,
  ): RuleEnd[] {
    const on = (changes: Partial<PacketState>) => [
      { kind: "next", state: { ...state, ...changes }, goesOn: true } as const,
    ];
    switch (effect.kind) {
      case "mark":
        return on(marked(state, effect.mark, effect.known, touch));
      case "connection mark":
        return on({ ctMark: effect.mark, ctMarkKnown: effect.known });
      case "untracked":
        return on({ untracked: true });
      case "rewrite": {
        const rewritten = [...state.rewritten, { ...touch, side: effect.side }];
        return [{ kind: "ended", verdict: "accept", touch, state: { ...state, rewritten } }];
      }
      case "tproxy":
        return this.tproxy(effect, touch, state);
      case "verdict":
        return this.verdict(effect, touch, state);
      case "verdicts": {
        const doubted = (branch: string) => withDoubt(state, touch, effect.reason, branch);
        const ends = effect.verdicts.flatMap((each) => {
          return this.verdict(each, touch, doubted(`${each.code} ${each.chain}`));
        });
        return effect.mayMiss ? [...ends, { kind: "next", state: doubted("miss") }] : ends;
      }
      case "unknown": {
        const doubted = (branch: string) => withDoubt(state, touch, effect.reason, branch);
        return [
          { kind: "next", state: doubted("next") },
          { kind: "ended", verdict: "drop", touch, state: doubted("drop") },
        ];
      }
    }
  }

  private tproxy(
    { port, address, xtables }: Effect & { kind: "tproxy" },
    touch: Touch,
    state: PacketState,
  ): RuleEnd[] {
    // A socket that is connected to the sender comes before any listener.
    const { socket } = this.context.packet;
    const isConnected = socket?.transparent === true && !socket.wildcard;
    const target = { ...touch, port, address };
    if (!isConnected && !this.context.tproxyTakes({ port, address })) {
      const missed = { ...state, missed: target };
      // xt_TPROXY drops, nft's breaks the rule off: kernel.md of the design, point 4.
      if (xtables === undefined) return [{ kind: "next", state: missed }];
      return [{ kind: "ended", verdict: "drop", touch, state: missed }];
    }
    const taken = isConnected ? state : { ...state, tproxy: target };
    if (xtables === undefined) return [{ kind: "next", state: taken, goesOn: true }];
    const after = { ...taken, ...marked(taken, xtables.mark, state.markKnown, touch) };
    return [{ kind: "ended", verdict: "accept", touch, state: after }];
  }

  private verdict(
    { code, chain }: { readonly code: number; readonly chain?: string | undefined },
    touch: Touch,
    state: PacketState,
  ): RuleEnd[] {
    switch (code) {
      case NF_DROP:
        return [{ kind: "ended", verdict: "drop", touch, state }];
      case NF_ACCEPT:
        return [{ kind: "ended", verdict: "accept", touch, state }];
      case NFT_RETURN:
        return [{ kind: "return", state }];
      case NFT_JUMP:
      case NFT_GOTO:
        return [{ kind: "jump", state, chain: chain ?? "", goes: code === NFT_GOTO }];
      case NFT_CONTINUE:
        return [{ kind: "next", state, goesOn: true }];
      default:
        return this.carryOut({ kind: "unknown", reason: "a program decides" }, touch, state);
    }
  }
}

function marked(state: PacketState, mark: number, known: number, touch: Touch) {
  const value = (mark & known) >>> 0;
  return { mark: value, markKnown: known, marking: [...state.marking, { ...touch, mark: value }] };
}

/** Whether a rule has a verdict, so that its limit matters to the packet. */
function decides({ expressions }: FirewallRule): boolean {
  return expressions.some((each) => {
    return each.kind === "verdict" || each.kind === "reject" || each.kind === "target";
  });
}

/** `inet filter input` */
export function chainName({
  family,
  table,
  name,
}: Pick<Chain, "family" | "table" | "name">): string {
  return `${familyName(family)} ${table} ${name}`;
}

/** A rule as it is named: by its chain and its handle. */
export function touchOf(firewallRule: FirewallRule, isLegacy?: true): Touch {
  const { family, table, chain, handle, comment, expressions } = firewallRule;
  const name = chainName({ family, table, name: chain });
  const rule = `${name} ${isLegacy ? "rule" : "handle"} ${handle ?? "?"}`;
  const isReversePath = expressions.some((each) => {
    if (each.kind === "fib") return (each.flags & NFTA_FIB_F_SADDR) !== 0;
    return each.kind === "match" && each.name === "rpfilter";
  });
  return defined({ rule, comment, isLegacy, isReversePath: isReversePath || undefined });
}
