/** Rules of nf_tables. Pure. Named firewall rules here, since `ip rule` has rules as well. */

import {
  NFT_MSG_DELRULE,
  NFT_MSG_GETRULE,
  NFT_MSG_NEWRULE,
  NFTA_LIST_ELEM,
  NFTA_RULE_CHAIN,
  NFTA_RULE_EXPRESSIONS,
  NFTA_RULE_HANDLE,
  NFTA_RULE_POSITION,
  NFTA_RULE_TABLE,
  NFTA_RULE_USERDATA,
  NLA_F_NESTED,
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_DUMP,
} from "../constants.ts";
import { decodeCString, defined, type Message, required, type Writer } from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";
import type { Counter } from "./expr/counter.ts";
import type { Expression } from "./expressions.ts";
import { decodeExpression, encodeExpression } from "./expressions.ts";

/** NFTNL_UDATA_RULE_COMMENT (libnftnl/udata.h): the type of the comment within the user data. */
const NFTNL_UDATA_RULE_COMMENT = 0;
/** The longest comment of nft(8) (NFTNL_UDATA_COMMENT_MAXLEN), the final NUL included. */
const commentBytesMax = 128;

/** Which chain. */
export interface ChainReference {
  readonly family: number;
  readonly table: string;
  readonly chain: string;
}

/** A rule of a chain. */
export interface FirewallRule extends ChainReference {
  readonly expressions: readonly Expression[];
  /** The text that nft shows as `comment "…"`: up to 127 bytes. */
  readonly comment?: string;
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
  /** The handle of the rule it follows; in `newFirewallRule`, of the one to put it after. */
  readonly position?: bigint;
}

/** Appends a rule to its chain, or puts it after the one that `position` names. */
export function newFirewallRule(rule: FirewallRule): Message {
  const flags = NLM_F_CREATE | NLM_F_APPEND;
  return nftMessage("NFT_MSG_NEWRULE", NFT_MSG_NEWRULE, flags, rule.family, (to) => {
    to.cstring(NFTA_RULE_TABLE, rule.table);
    to.cstring(NFTA_RULE_CHAIN, rule.chain);
    if (rule.position !== undefined) to.be64(NFTA_RULE_POSITION, rule.position);
    to.nest(NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, () => writeExpressions(to, rule.expressions));
    if (rule.comment !== undefined) to.bytes(NFTA_RULE_USERDATA, encodeComment(rule.comment));
  });
}

function writeExpressions(to: Writer, expressions: readonly Expression[]): void {
  for (const expression of expressions) {
    to.nest(NFTA_LIST_ELEM | NLA_F_NESTED, () => encodeExpression(to, expression));
  }
}

/** Deletes the rule of a handle, or without one all rules of the chain. */
export function deleteFirewallRule(rule: ChainReference & { readonly handle?: bigint }): Message {
  return nftMessage("NFT_MSG_DELRULE", NFT_MSG_DELRULE, 0, rule.family, (to) => {
    writeChain(to, rule);
    if (rule.handle !== undefined) to.be64(NFTA_RULE_HANDLE, rule.handle);
  });
}

/** Asks for the rules of one chain, in their order. No such chain is an empty list. */
export function dumpFirewallRules(chain: ChainReference): Message {
  const { family } = chain;
  return nftMessage("NFT_MSG_GETRULE", NFT_MSG_GETRULE, NLM_F_DUMP, family, (to) => {
    writeChain(to, chain);
  });
}

function writeChain(to: Writer, { table, chain }: ChainReference): void {
  to.cstring(NFTA_RULE_TABLE, table);
  to.cstring(NFTA_RULE_CHAIN, chain);
}

/**
 * Decodes the body of NFT_MSG_NEWRULE.
 * @throws WireError
 */
export function decodeFirewallRule(body: Uint8Array): FirewallRule {
  const { family, attributes } = nftAttributes(body);
  const expressions = attributes
    .list(NFTA_RULE_EXPRESSIONS)
    .filter(({ type }) => type === NFTA_LIST_ELEM);
  return defined({
    family,
    table: required(attributes.string(NFTA_RULE_TABLE), "NFTA_RULE_TABLE"),
    chain: required(attributes.string(NFTA_RULE_CHAIN), "NFTA_RULE_CHAIN"),
    expressions: expressions.map(({ payload }) => decodeExpression(payload)),
    comment: decodeComment(attributes.bytes(NFTA_RULE_USERDATA)),
    handle: attributes.be64(NFTA_RULE_HANDLE),
    position: attributes.be64(NFTA_RULE_POSITION),
  });
}

/** The value of the rule's first counter; undefined when it has none. */
export function counterOf(rule: FirewallRule): Counter | undefined {
  return rule.expressions.find((expression) => expression.kind === "counter");
}

/** User data as nft(8) writes it: type, length, the text and its NUL; 1 byte each before it. */
function encodeComment(comment: string): Uint8Array {
  const text = new TextEncoder().encode(`${comment}\0`);
  if (text.length > commentBytesMax) {
    throw new RangeError(`comment of ${text.length - 1} bytes, at most ${commentBytesMax - 1}`);
  }
  return Uint8Array.of(NFTNL_UDATA_RULE_COMMENT, text.length, ...text);
}

function decodeComment(userData: Uint8Array | undefined): string | undefined {
  if (userData === undefined) return undefined;
  // Others put what they like in here, so what does not fit is no error, just no comment.
  for (let at = 0; at + 2 <= userData.length; ) {
    const [type, length] = [userData[at] as number, userData[at + 1] as number];
    const text = userData.subarray(at + 2, at + 2 + length);
    if (text.length < length) return undefined;
    if (type === NFTNL_UDATA_RULE_COMMENT) return decodeCString(text);
    at += 2 + length;
  }
  return undefined;
}
