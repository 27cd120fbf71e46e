/**
 * All expressions of nf_tables that have a type here, one file of `expr/` each. Pure. An expression
 * of another name, or in a form that its file does not know, is kept as its bytes.
 */

import { NFTA_EXPR_DATA, NFTA_EXPR_NAME, NLA_F_NESTED } from "../constants.ts";
import { Attributes, required, type Writer } from "../wire.ts";
import { bitwiseCodec } from "./expr/bitwise.ts";
import { byteorderCodec } from "./expr/byteorder.ts";
import { cmpCodec } from "./expr/cmp.ts";
import { matchCodec, targetCodec } from "./expr/compat.ts";
import { connlimitCodec } from "./expr/connlimit.ts";
import { counterCodec } from "./expr/counter.ts";
import { ctCodec } from "./expr/ct.ts";
import { exthdrCodec } from "./expr/exthdr.ts";
import { fibCodec } from "./expr/fib.ts";
import { flowOffloadCodec } from "./expr/flow-offload.ts";
import { hashCodec } from "./expr/hash.ts";
import { immediateCodec } from "./expr/immediate.ts";
import { limitCodec } from "./expr/limit.ts";
import { lookupCodec } from "./expr/lookup.ts";
import { masqCodec } from "./expr/masq.ts";
import { metaCodec } from "./expr/meta.ts";
import { natCodec } from "./expr/nat.ts";
import { numgenCodec } from "./expr/numgen.ts";
import { objrefCodec } from "./expr/objref.ts";
import { payloadCodec } from "./expr/payload.ts";
import { quotaCodec } from "./expr/quota.ts";
import { rangeCodec } from "./expr/range.ts";
import { redirCodec } from "./expr/redir.ts";
import { rejectCodec } from "./expr/reject.ts";
import { socketCodec } from "./expr/socket.ts";
import { tproxyCodec } from "./expr/tproxy.ts";
import type { ExpressionCodec } from "./expression-codec.ts";

/** A new expression is a file of `expr/` and a line here. */
const codecs = [
  bitwiseCodec,
  byteorderCodec,
  cmpCodec,
  connlimitCodec,
  counterCodec,
  ctCodec,
  exthdrCodec,
  fibCodec,
  flowOffloadCodec,
  hashCodec,
  masqCodec,
  natCodec,
  numgenCodec,
  objrefCodec,
  immediateCodec,
  limitCodec,
  lookupCodec,
  matchCodec,
  metaCodec,
  payloadCodec,
  quotaCodec,
  rangeCodec,
  redirCodec,
  rejectCodec,
  socketCodec,
  targetCodec,
  tproxyCodec,
] as const;

/** An expression of somebody else's rule, kept as it is. */
export interface OtherExpression {
  readonly kind: "other";
  readonly name: string;
  /** The payload of NFTA_EXPR_DATA. */
  readonly data: Uint8Array;
}

/** An expression of a rule, by `kind`. */
export type Expression =
  | NonNullable<ReturnType<(typeof codecs)[number]["decode"]>>
  | OtherExpression;

type AnyCodec = ExpressionCodec<Expression>;

const byName: ReadonlyMap<string, AnyCodec> = new Map(
  codecs.map((codec) => [codec.name, codec as AnyCodec]),
);
const byKind: ReadonlyMap<string, AnyCodec> = new Map(
  codecs.flatMap((codec) => codec.kinds.map((kind) => [kind, codec as AnyCodec] as const)),
);

/** Writes the members of a NFTA_LIST_ELEM: the expression's name and data. */
export function encodeExpression(to: Writer, expression: Expression): void {
  if (expression.kind === "other") {
    to.cstring(NFTA_EXPR_NAME, expression.name);
    to.nest(NFTA_EXPR_DATA | NLA_F_NESTED, () => to.raw(expression.data));
    return;
  }
  const codec = byKind.get(expression.kind) as AnyCodec;
  to.cstring(NFTA_EXPR_NAME, codec.name);
  to.nest(NFTA_EXPR_DATA | NLA_F_NESTED, () => codec.encode(to, expression));
}

/**
 * Decodes the payload of a NFTA_LIST_ELEM.
 * @throws WireError
 */
export function decodeExpression(bytes: Uint8Array): Expression {
  const attributes = new Attributes(bytes);
  const name = required(attributes.string(NFTA_EXPR_NAME), "NFTA_EXPR_NAME");
  const data = attributes.bytes(NFTA_EXPR_DATA) ?? new Uint8Array();
  return byName.get(name)?.decode(new Attributes(data)) ?? { kind: "other", name, data };
}
