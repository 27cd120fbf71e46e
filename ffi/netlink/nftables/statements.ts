/**
 * The matches and statements of nft(8), as the expressions that it compiles them to. Pure. Put
 * them one after the other for a rule; in a table of NFPROTO_INET, `family` has to come before a
 * match of addresses and `protocol` before one of ports.
 */

import { IFNAMSIZ } from "../../constants.ts";
import {
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFPROTO_UNSPEC,
  NFT_REG_1,
  NFT_REG_2,
  RTN_LOCAL,
} from "../constants.ts";
import type { Prefix } from "../route.ts";
import type { Range } from "../rule.ts";
import { bitwise } from "./expr/bitwise.ts";
import { compare, NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ } from "./expr/cmp.ts";
import { conntrack, IP_CT_DIR_REPLY, NFT_CT_DIRECTION } from "./expr/ct.ts";
import { fibType, NFTA_FIB_F_DADDR } from "./expr/fib.ts";
import { immediate } from "./expr/immediate.ts";
import { lookup } from "./expr/lookup.ts";
import {
  meta,
  metaSet,
  NFT_META_IIFNAME,
  NFT_META_L4PROTO,
  NFT_META_MARK,
  NFT_META_NFPROTO,
  NFT_META_OIFNAME,
} from "./expr/meta.ts";
import {
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_PAYLOAD_TRANSPORT_HEADER,
  payload,
} from "./expr/payload.ts";
import { NFT_SOCKET_TRANSPARENT, NFT_SOCKET_WILDCARD, socket } from "./expr/socket.ts";
import { tproxy } from "./expr/tproxy.ts";
import type { Expression } from "./expressions.ts";
import { hostOrder32, networkOrder16 } from "./registers.ts";

type Expressions = readonly Expression[];
/** Which end of the packet. */
export type Side = "source" | "destination";

/** `iifname "veth0"`; with a final `*` all interfaces whose name begins so. */
export function inputInterface(name: string): Expressions {
  return [meta(NFT_META_IIFNAME), compare(interfaceName(name))];
}

/** `oifname "veth0"`, likewise. */
export function outputInterface(name: string): Expressions {
  return [meta(NFT_META_OIFNAME), compare(interfaceName(name))];
}

function interfaceName(name: string): Uint8Array {
  const isPrefix = name.endsWith("*");
  const text = new TextEncoder().encode(isPrefix ? name.slice(0, -1) : name);
  if (text.length === 0 || text.length >= IFNAMSIZ) {
    throw new RangeError(`interface name ${JSON.stringify(name)}`);
  }
  if (isPrefix) return text;
  const padded = new Uint8Array(IFNAMSIZ);
  padded.set(text);
  return padded;
}

/** `meta nfproto ipv4`: NFPROTO_IPV4 or NFPROTO_IPV6. */
export function family(nfproto: number): Expressions {
  return [meta(NFT_META_NFPROTO), compare(Uint8Array.of(nfproto))];
}

/** `meta l4proto tcp`: IPPROTO_TCP or IPPROTO_UDP. */
export function protocol(l4proto: number): Expressions {
  return [meta(NFT_META_L4PROTO), compare(Uint8Array.of(l4proto))];
}

/** `ip daddr 10.0.0.0/8`, after `family`. Bits of the address beyond the prefix are ignored. */
export function address(side: Side, prefix: Prefix): Expressions {
  const { length } = prefix;
  const bytes = Math.ceil(length / 8);
  if (bytes === 0) return [];
  // A prefix of whole bytes needs no mask: nft loads just these, and so is this comparable.
  const mask = Uint8Array.from({ length: bytes }, () => 0xff);
  if (length % 8 === 0) return [loadAddress(side, prefix, bytes), compareMasked(prefix, mask)];
  const wide = new Uint8Array(prefix.address.length);
  wide.set(mask);
  wide[bytes - 1] = 0xff << (8 - (length % 8));
  return [
    loadAddress(side, prefix, wide.length),
    bitwise(wide, new Uint8Array(wide.length)),
    compareMasked(prefix, wide),
  ];
}

function compareMasked(prefix: Prefix, mask: Uint8Array): Expression {
  return compare(mask.map((bits, i) => bits & (prefix.address[i] as number)));
}

/** `ip daddr @name`, after `family`; `nfproto` is that of the set's addresses. */
export function addressInSet(
  side: Side,
  nfproto: number,
  set: { name: string; id?: number },
  lookupFlags = 0,
): Expressions {
  const width = nfproto === NFPROTO_IPV4 ? 4 : 16;
  const wanted = { address: new Uint8Array(width), length: 8 * width };
  return [loadAddress(side, wanted, width), lookup(set, lookupFlags)];
}

/** Loads the first `bytes` of an address: at 12 and 16 of an IPv4 header, 8 and 24 of IPv6. */
function loadAddress(side: Side, prefix: Prefix, bytes: number): Expression {
  const isV4 = prefix.address.length === 4;
  const source = isV4 ? 12 : 8;
  const offset = side === "source" ? source : source + prefix.address.length;
  return payload(NFT_PAYLOAD_NETWORK_HEADER, offset, bytes);
}

/** `tcp dport 80` or `80-90`, after `protocol`: the ports of TCP and UDP alike. */
export function ports(side: Side, [first, last]: Range): Expressions {
  const load = payload(NFT_PAYLOAD_TRANSPORT_HEADER, side === "source" ? 0 : 2, 2);
  if (first === last) return [load, compare(networkOrder16(first))];
  return [
    load,
    compare(networkOrder16(first), NFT_CMP_GTE),
    compare(networkOrder16(last), NFT_CMP_LTE),
  ];
}

/** `meta mark & mask == mark`, or `!=`. */
export function markIs(mark: number, mask: number, isNegated = false): Expressions {
  const op = isNegated ? NFT_CMP_NEQ : NFT_CMP_EQ;
  const load = meta(NFT_META_MARK);
  if (mask >>> 0 === 0xffff_ffff) return [load, compare(hostOrder32(mark), op)];
  return [load, bitwise(hostOrder32(mask), hostOrder32(0)), compare(hostOrder32(mark), op)];
}

/** `meta mark set meta mark & ~mask ^ mark`, which iptables writes `--set-xmark mark/mask`. */
export function setMark(mark: number, mask: number): Expressions {
  if (mask >>> 0 === 0xffff_ffff) return [immediate(hostOrder32(mark)), metaSet(NFT_META_MARK)];
  return [
    meta(NFT_META_MARK),
    bitwise(hostOrder32(~mask), hostOrder32(mark)),
    metaSet(NFT_META_MARK),
  ];
}

/**
 * `socket transparent 1`, and with `wildcard` `socket wildcard 0` or `1`: whether it is bound to
 * every address, as a listener may be. With either, sockets in TIME_WAIT and in the FIN_WAIT_2 of
 * a closed descriptor do not match: they are no full sockets (nft_socket_eval in
 * net/netfilter/nft_socket.c).
 */
export function transparentSocket(wildcard?: boolean): Expressions {
  const bound = [socket(NFT_SOCKET_WILDCARD), compare(Uint8Array.of(Number(wildcard)))];
  return [
    ...[socket(NFT_SOCKET_TRANSPARENT), compare(Uint8Array.of(1))],
    ...(wildcard === undefined ? [] : bound),
  ];
}

/** `fib daddr type local`: this host's own addresses. */
export function localDestination(): Expressions {
  return [fibType(NFTA_FIB_F_DADDR), compare(hostOrder32(RTN_LOCAL))];
}

/** `ct direction reply`: packets of the connection's accepting end. */
export function replyDirection(): Expressions {
  return [conntrack(NFT_CT_DIRECTION), compare(Uint8Array.of(IP_CT_DIR_REPLY))];
}

/** `tproxy to :port`, or `tproxy ip to address:port` after `family`. Prerouting only. */
export function tproxyTo(port: number, address?: Uint8Array): Expressions {
  if (address === undefined)
    return [immediate(networkOrder16(port)), tproxy(NFPROTO_UNSPEC, false)];
  const nfproto = address.length === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
  return [
    immediate(address, NFT_REG_1),
    immediate(networkOrder16(port), NFT_REG_2),
    tproxy(nfproto, true),
  ];
}
