/**
 * The table that stays behind a held set-up so that it fails closed. Pure.
 *
 * Beside the table that the kernel removes with its owner there is a second one that nobody owns.
 * Its chains see packets right behind those of the first, select the same ones, and drop those that
 * the first has not marked. So it drops nothing while the owner lives, and everything that was
 * captured from the moment that it is gone: no step lies between.
 */

import {
  NF_DROP,
  NFT_MSG_NEWCHAIN,
  NFT_MSG_NEWRULE,
  NFT_MSG_NEWSET,
  NFT_MSG_NEWSETELEM,
} from "../../../ffi/netlink/constants.ts";
import { decodeChain, newChain } from "../../../ffi/netlink/nftables/chain.ts";
import { verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { NFT_META_MARK } from "../../../ffi/netlink/nftables/expr/meta.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { decodeFirewallRule, newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { decodeSet, newElements, newSet } from "../../../ffi/netlink/nftables/set.ts";
import { markIs } from "../../../ffi/netlink/nftables/statements.ts";
import { newTable } from "../../../ffi/netlink/nftables/table.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { type DesiredState, nftType, setOf } from "./desired-state.ts";
import { findMarking } from "./marking.ts";
import { closedSuffix } from "./names.ts";

/** Ids of sets are the batch's: these must not be those of the table beside it. */
const setIdOffset = 0x10000;

/** A firewall rule captures without a mark, so its captured packets cannot be recognised. */
export class UnmarkedCapture extends Error {}

/** The messages that make the table beside the Plan's. @throws UnmarkedCapture */
export function closedMessages(parts: DesiredState): readonly Message[] {
  const { firewall, firewallMessages, behindMessages } = parts;
  if (behindMessages !== undefined) return behindMessages;
  const { family } = firewall.table;
  const table = firewall.table.name + closedSuffix;
  return firewallMessages.flatMap((message): Message[] => {
    switch (nftType(message)) {
      case NFT_MSG_NEWCHAIN: {
        const { base, ...chain } = decodeChain(message.body);
        const behind = base && { ...base, type: "filter", priority: base.priority + 1 };
        if (base?.type === "nat") throw new UnmarkedCapture();
        return [newChain({ ...chain, table, ...(behind === undefined ? {} : { base: behind }) })];
      }
      case NFT_MSG_NEWRULE: {
        const rule = decodeFirewallRule(message.body);
        const expressions = closedExpressions(rule.expressions)?.map(renumbered);
        return expressions === undefined ? [] : [newFirewallRule({ ...rule, table, expressions })];
      }
      case NFT_MSG_NEWSET: {
        const set = decodeSet(message.body);
        return [newSet({ ...set, table, id: (set.id ?? 0) + setIdOffset })];
      }
      case NFT_MSG_NEWSETELEM: {
        const set = setOf(message, firewall.sets);
        if (set === undefined) return [];
        // Those of a long list come in several messages; the first brings them all.
        if (message !== firstElements(firewallMessages, set.id)) return [];
        const reference = { family, table, name: set.name, id: (set.id ?? 0) + setIdOffset };
        return newElements(reference, set.elements);
      }
      default:
        return [newTable({ family, name: table })];
    }
  });

  function firstElements(messages: readonly Message[], id: number | undefined) {
    return messages.find(
      (each) => nftType(each) === NFT_MSG_NEWSETELEM && setOf(each, firewall.sets)?.id === id,
    );
  }
}

/**
 * A rule that marks becomes one that drops what has no mark. One that captures what has the mark
 * already, which only the owner's table sets, has nothing to do without it. All others stay.
 */
function closedExpressions(expressions: readonly Expression[]): readonly Expression[] | undefined {
  const marking = findMarking(expressions);
  if (marking !== undefined) {
    const { value, mask } = marking.mark;
    return [...expressions.slice(0, marking.at), ...markIs(value, mask, true), verdict(NF_DROP)];
  }
  if (!expressions.some(({ kind }) => kind === "tproxy")) return expressions;
  const seesMark = expressions.some((each) => each.kind === "meta" && each.key === NFT_META_MARK);
  if (!seesMark) throw new UnmarkedCapture();
  return undefined;
}

function renumbered(expression: Expression): Expression {
  if (expression.kind !== "lookup" || expression.setId === undefined) return expression;
  return { ...expression, setId: expression.setId + setIdOffset };
}
