/**
 * The extensions of iptables that its rules in nf_tables are made of (nft_compat.c): those that a
 * transparent proxy's rules use. Pure. Structures: linux/netfilter/xt_*.h, in host order.
 */

import { Attributes, HOST_ORDER, NETWORK_ORDER, WireError } from "../../ffi/netlink/wire.ts";
import type { Packet } from "./packet.ts";

/** What an extension or an expression does to a packet. */
export type CompatEffect =
  | { readonly kind: "mark"; readonly mark: number }
  | {
      readonly kind: "tproxy";
      readonly port: number;
      readonly address: Uint8Array | undefined;
      /** The mark that comes with it, once a listener is found. */
      readonly mark: number | undefined;
      readonly isXtables: boolean;
    }
  | { readonly kind: "unknown" };

/** `maybe`: an extension that is not known here, or not enough of the packet. */
type CompatResult = CompatEffect | "match" | "no match" | "maybe";

// linux/netfilter/nf_tables_compat.h: the same numbers for NFTA_TARGET_* and NFTA_MATCH_*.
const NFTA_TARGET_NAME = 1;
const NFTA_TARGET_INFO = 3;
const XT_SOCKET_TRANSPARENT = 1;
const XT_SOCKET_NOWILDCARD = 2;
const XT_ADDRTYPE_INVERT_DEST = 2;

/** Reads `match` or `target` with its NFTA_EXPR_DATA; `mark` is what the packet has by now. */
export function readCompat(
  kind: "match" | "target",
  data: Uint8Array,
  packet: Packet,
  mark: number,
): CompatResult {
  try {
    const attributes = new Attributes(data);
    const name = attributes.string(NFTA_TARGET_NAME) ?? "";
    const info = attributes.bytes(NFTA_TARGET_INFO) ?? new Uint8Array();
    const view = new DataView(info.buffer, info.byteOffset, info.length);
    return kind === "target" ? target(name, view, packet, mark) : match(name, view, packet, mark);
  } catch (error) {
    if (error instanceof RangeError || error instanceof WireError) {
      return kind === "target" ? { kind: "unknown" } : "maybe";
    }
    throw error;
  }
}

function target(name: string, info: DataView, packet: Packet, mark: number): CompatResult {
  if (name === "MARK") {
    const [value, mask] = [info.getUint32(0, HOST_ORDER), info.getUint32(4, HOST_ORDER)];
    return { kind: "mark", mark: ((mark & ~mask) ^ value) >>> 0 };
  }
  if (name === "TPROXY") {
    const [mask, value] = [info.getUint32(0, HOST_ORDER), info.getUint32(4, HOST_ORDER)];
    const width = packet.destination.family === 4 ? 4 : 16;
    const address = new Uint8Array(info.buffer, info.byteOffset + 8, width).slice();
    const port = info.getUint16(24, NETWORK_ORDER);
    return {
      kind: "tproxy",
      port: port === 0 ? packet.port : port,
      address: address.every((byte) => byte === 0) ? undefined : address,
      mark: ((mark & ~mask) ^ value) >>> 0,
      isXtables: true,
    };
  }
  return name === "LOG" || name === "NFLOG" || name === "TRACE" ? "match" : { kind: "unknown" };
}

function match(name: string, info: DataView, packet: Packet, mark: number): CompatResult {
  switch (name) {
    case "comment":
      return "match";
    case "tcp":
    case "udp":
      return name === packet.protocol ? portsMatch(name, info, packet) : "no match";
    case "multiport":
      return multiport(info, packet);
    case "mark": {
      const [value, mask] = [info.getUint32(0, HOST_ORDER), info.getUint32(4, HOST_ORDER)];
      return is((mark & mask) >>> 0 === value, info.getUint8(8) !== 0);
    }
    case "socket": {
      const flags = info.byteLength > 0 ? info.getUint8(0) : 0;
      const { socket } = packet;
      if (socket === undefined) return "no match";
      if ((flags & XT_SOCKET_TRANSPARENT) !== 0 && !socket.transparent) return "no match";
      return (flags & XT_SOCKET_NOWILDCARD) === 0 && socket.wildcard ? "no match" : "match";
    }
    case "addrtype": {
      const [source, types] = [info.getUint16(0, HOST_ORDER), info.getUint16(2, HOST_ORDER)];
      if (source !== 0) return "maybe";
      const inverted = (info.getUint32(4, HOST_ORDER) & XT_ADDRTYPE_INVERT_DEST) !== 0;
      return is((types & (1 << packet.destinationType)) !== 0, inverted);
    }
    default:
      return "maybe";
  }
}

/** `struct xt_tcp` and `struct xt_udp`: first and last source port, then of the destination. */
function portsMatch(name: "tcp" | "udp", info: DataView, packet: Packet): CompatResult {
  const at = (index: number) => info.getUint16(2 * index, HOST_ORDER);
  const flags = info.getUint8(name === "tcp" ? 11 : 8);
  const within = packet.port >= at(2) && packet.port <= at(3);
  if (is(within, (flags & 2) !== 0) === "no match") return "no match";
  return at(0) === 0 && at(1) === 0xffff ? "match" : "maybe";
}

/** `struct xt_multiport_v1`: which side, how many, the ports, which begin a range, inverted. */
function multiport(info: DataView, packet: Packet): CompatResult {
  const XT_MULTIPORT_DESTINATION = 1;
  if (info.getUint8(0) !== XT_MULTIPORT_DESTINATION) return "maybe";
  const count = info.getUint8(1);
  let found = false;
  for (let i = 0; i < count; i++) {
    const first = info.getUint16(2 + 2 * i, HOST_ORDER);
    const isRange = info.getUint8(32 + i) !== 0;
    const last = isRange ? info.getUint16(2 + 2 * ++i, HOST_ORDER) : first;
    if (packet.port >= first && packet.port <= last) found = true;
  }
  return is(found, info.getUint8(47) !== 0);
}

function is(condition: boolean, inverted: boolean): "match" | "no match" {
  return condition !== inverted ? "match" : "no match";
}
