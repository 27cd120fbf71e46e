/**
 * User data by which nft(8) lists a map with `typeof`: NFTNL_UDATA_SET_* of libnftnl/udata.h, and
 * expressions by nft's own numbers. Pure. Other programs, the kernel among them, do not read it.
 */

import { HOST_ORDER } from "../wire.ts";

const BYTEORDER_INVALID = 0;
const BYTEORDER_HOST_ENDIAN = 1;
// libnftnl/udata.h
const NFTNL_UDATA_SET_KEYBYTEORDER = 0;
const NFTNL_UDATA_SET_DATABYTEORDER = 1;
const NFTNL_UDATA_SET_KEY_TYPEOF = 3;
const NFTNL_UDATA_SET_DATA_TYPEOF = 4;
const NFTNL_UDATA_SET_DATA_INTERVAL = 6;
// `enum expr_types` and `enum proto_desc_id` of nft's expression.h and proto.h.
const EXPR_PAYLOAD = 7;
const EXPR_CONCAT = 13;
const EXPR_NUMGEN = 23;
const PROTO_DESC_TH = 11;
const THDR_DPORT = 2;
const destinations = {
  4: { protocol: 12, field: 12 },
  6: { protocol: 13, field: 9 },
} as const;

/** Of `typeof numgen inc mod modulus : ip daddr . th dport`, or `ip6 daddr`. */
export function numberToEndpoint(modulus: number, family: 4 | 6): Uint8Array {
  const { protocol, field } = destinations[family];
  const numbers = [u32(0, 0), u32(1, modulus), u32(2, 0)];
  const address = expression(EXPR_PAYLOAD, [u32(0, protocol), u32(1, field)]);
  const port = expression(EXPR_PAYLOAD, [u32(0, PROTO_DESC_TH), u32(1, THDR_DPORT)]);
  const endpoint = [nest(0, address), nest(1, port)];
  return Uint8Array.from(
    [
      u32(NFTNL_UDATA_SET_KEYBYTEORDER, BYTEORDER_HOST_ENDIAN),
      u32(NFTNL_UDATA_SET_DATABYTEORDER, BYTEORDER_INVALID),
      nest(NFTNL_UDATA_SET_KEY_TYPEOF, expression(EXPR_NUMGEN, numbers)),
      nest(NFTNL_UDATA_SET_DATA_TYPEOF, expression(EXPR_CONCAT, endpoint)),
      u32(NFTNL_UDATA_SET_DATA_INTERVAL, 0),
    ].flat(),
  );
}

function expression(type: number, members: readonly number[][]): number[][] {
  return [u32(0, type), nest(1, members)];
}

/** One member: its type, its length, its bytes. */
function nest(type: number, members: readonly number[][]): number[] {
  const bytes = members.flat();
  return [type, bytes.length, ...bytes];
}

function u32(type: number, value: number): number[] {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, HOST_ORDER);
  return [type, 4, ...new Uint8Array(view.buffer)];
}
