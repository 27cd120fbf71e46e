/** The values that a rule loads: of the packet, its interfaces, its connection. Pure. */

import { ARPHRD_LOOPBACK, ETH_P_IP, ETH_P_IPV6 } from "../../../ffi/constants.ts";
import * as nl from "../../../ffi/netlink/constants.ts";
import {
  type ConntrackLoad,
  IPS_ASSURED,
  IPS_CONFIRMED,
  IPS_DST_NAT,
  IPS_SEEN_REPLY,
  IPS_SRC_NAT,
  NFT_CT_DIRECTION,
  NFT_CT_HELPER,
  NFT_CT_MARK,
  NFT_CT_STATE,
  NFT_CT_STATUS,
  NFT_CT_ZONE,
} from "../../../ffi/netlink/nftables/expr/ct.ts";
import {
  type MetaLoad,
  NFT_META_IIF,
  NFT_META_IIFGROUP,
  NFT_META_IIFKIND,
  NFT_META_IIFNAME,
  NFT_META_IIFTYPE,
  NFT_META_L4PROTO,
  NFT_META_MARK,
  NFT_META_NFPROTO,
  NFT_META_OIF,
  NFT_META_OIFGROUP,
  NFT_META_OIFKIND,
  NFT_META_OIFNAME,
  NFT_META_OIFTYPE,
  NFT_META_PKTTYPE,
  NFT_META_PROTOCOL,
  NFT_META_SECPATH,
  NFT_META_SKGID,
  NFT_META_SKUID,
} from "../../../ffi/netlink/nftables/expr/meta.ts";
import {
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_PAYLOAD_TRANSPORT_HEADER,
  type PayloadLoad,
} from "../../../ffi/netlink/nftables/expr/payload.ts";
import {
  NFT_SOCKET_CGROUPV2,
  NFT_SOCKET_TRANSPARENT,
  NFT_SOCKET_WILDCARD,
  type SocketLoad,
} from "../../../ffi/netlink/nftables/expr/socket.ts";
import { ephemeralPort, type Packet } from "../packet.ts";
import { type Bits, host32, known, unknownBits } from "./bits.ts";
import type { ChainContext, SocketFacts } from "./context.ts";
import type { PacketState } from "./state.ts";

/** NF_CT_STATE_BIT() of each state (linux/netfilter/nf_tables.h). */
const ctStates = { invalid: 1, established: 2, related: 4, new: 8, untracked: 64 } as const;

const SYN = 0x02;
const ACK = 0x10;

/** `break`: the expression has nothing to load, which ends the rule. */
export type Loaded = Bits | "break";

const byte = (value: number) => known(Uint8Array.of(value));
const be16 = (value: number) => known(Uint8Array.of(value >> 8, value & 0xff));

/** The state of the packet's connection, or that it has none. */
export function connectionState(
  { packet, base }: ChainContext,
  { untracked }: PacketState,
): keyof typeof ctStates {
  if (untracked) return "untracked";
  // Tracking begins at the first hook, unless the packet has gone through another one before.
  const isFirstHook =
    base.hook === nl.NF_INET_LOCAL_OUT ||
    (base.hook === nl.NF_INET_PRE_ROUTING && packet.iif !== "lo");
  if (isFirstHook && base.priority < nl.NF_IP_PRI_CONNTRACK) return "invalid";
  return packet.stage === "answer" || packet.stage === "later" ? "established" : "new";
}

/** The value that `ct` loads. */
export function loadConntrack(
  context: ChainContext,
  state: PacketState,
  { key }: ConntrackLoad,
): Loaded {
  const { packet } = context;
  const connection = connectionState(context, state);
  if (key === NFT_CT_STATE) return host32(ctStates[connection]);
  if (connection === "invalid" || connection === "untracked") return "break";
  switch (key) {
    case NFT_CT_DIRECTION:
      return byte(packet.stage === "answer" ? 1 : 0);
    case NFT_CT_MARK:
      return host32(state.ctMark, state.ctMarkKnown);
    case NFT_CT_STATUS: {
      const nat = state.rewritten.reduce((bits, { side }) => {
        return bits | (side === "source" ? IPS_SRC_NAT : IPS_DST_NAT);
      }, 0);
      const isNew = connection === "new";
      const rest = IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED;
      return host32(nat, isNew ? rest | IPS_SRC_NAT | IPS_DST_NAT : IPS_SRC_NAT | IPS_DST_NAT);
    }
    case NFT_CT_HELPER:
      return "break";
    case NFT_CT_ZONE:
      return known(new Uint8Array(2));
    default:
      return unknownBits(16);
  }
}

/** The value that `meta` loads. */
export function loadMeta(context: ChainContext, state: PacketState, { key }: MetaLoad): Loaded {
  const { packet } = context;
  const isV4 = packet.destination.family === 4;
  switch (key) {
    case NFT_META_MARK:
      return host32(state.mark, state.markKnown);
    case NFT_META_NFPROTO:
      return byte(isV4 ? nl.NFPROTO_IPV4 : nl.NFPROTO_IPV6);
    case NFT_META_L4PROTO:
      return byte(protocolNumber(packet));
    case NFT_META_PROTOCOL:
      return be16(isV4 ? ETH_P_IP : ETH_P_IPV6);
    case NFT_META_PKTTYPE:
    case NFT_META_SECPATH:
      return byte(0);
    case NFT_META_SKUID:
    case NFT_META_SKGID:
      return loadOwner(context, key === NFT_META_SKUID ? "uid" : "gid");
    default:
      return loadInterface(context, key);
  }
}

/** The program that sends the packet; what comes in has none. */
function loadOwner({ packet, base }: ChainContext, which: "uid" | "gid"): Loaded {
  const isOut = base.hook === nl.NF_INET_LOCAL_OUT || base.hook === nl.NF_INET_POST_ROUTING;
  const id = packet.owner?.[which];
  if (id !== undefined && isOut) return host32(id);
  const isBefore = base.hook === nl.NF_INET_PRE_ROUTING || base.hook === nl.NF_INET_FORWARD;
  return isBefore ? "break" : unknownBits(4);
}

function loadInterface(context: ChainContext, key: number): Loaded {
  const { packet, links } = context;
  const isIn = [
    NFT_META_IIF,
    NFT_META_IIFNAME,
    NFT_META_IIFTYPE,
    NFT_META_IIFGROUP,
    NFT_META_IIFKIND,
  ].includes(key);
  const name = (isIn ? packet.iif : packet.oif) ?? "";
  const link = links.find((each) => each.name === name);
  switch (key) {
    case NFT_META_IIFNAME:
    case NFT_META_OIFNAME:
      return text(name);
    case NFT_META_IIF:
    case NFT_META_OIF:
      return name === "" || link !== undefined ? host32(link?.index ?? 0) : unknownBits(4);
    case NFT_META_IIFTYPE:
    case NFT_META_OIFTYPE:
      if (name === "") return "break";
      return link?.loopback
        ? known(Uint8Array.of(ARPHRD_LOOPBACK & 0xff, ARPHRD_LOOPBACK >> 8))
        : unknownBits(2);
    case NFT_META_IIFKIND:
    case NFT_META_OIFKIND:
      return link?.kind === undefined ? "break" : text(link.kind);
    case NFT_META_IIFGROUP:
    case NFT_META_OIFGROUP:
      return name === "" ? "break" : unknownBits(4);
    default:
      return unknownBits(16);
  }
}

function text(name: string): Bits {
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode(name).subarray(0, 16));
  return known(bytes);
}

/** The socket that the packet belongs to, or that would take it. */
export function socketOf({ packet, listener }: ChainContext): SocketFacts | undefined {
  return packet.socket ?? listener;
}

/** The value that `socket` loads. */
export function loadSocket(context: ChainContext, { key }: SocketLoad): Loaded {
  const socket = socketOf(context);
  // The level of a control group, of which only a packet of this host has one.
  if (key === NFT_SOCKET_CGROUPV2) {
    const { owner, socket: own } = context.packet;
    return owner !== undefined || own === undefined ? "break" : unknownBits(8);
  }
  if (socket === undefined) return "break";
  if (key === NFT_SOCKET_TRANSPARENT) return byte(Number(socket.transparent));
  if (key === NFT_SOCKET_WILDCARD) return byte(Number(socket.wildcard));
  return unknownBits(8);
}

/** Bytes of a header, as far as they are certain. */
export function loadPayload({ packet }: ChainContext, load: PayloadLoad): Loaded {
  const header = headerOf(packet, load.base);
  if (header === undefined) return unknownBits(load.length);
  const { offset, length } = load;
  const end = offset + length;
  if (end <= header.value.length) {
    return { value: header.value.slice(offset, end), known: header.known.slice(offset, end) };
  }
  return unknownBits(length);
}

/** The header as far as it is certain; undefined for headers of which nothing is. */
function headerOf(packet: Packet, base: number): Bits | undefined {
  if (base === NFT_PAYLOAD_TRANSPORT_HEADER) return transportHeader(packet);
  if (base !== NFT_PAYLOAD_NETWORK_HEADER) return undefined;
  const { source, destination } = packet;
  const isV4 = destination.family === 4;
  const size = isV4 ? 20 : 40;
  const bits = { value: new Uint8Array(size), known: new Uint8Array(size) };
  const set = (at: number, bytes: readonly number[] | Uint8Array, mask = 0xff) => {
    bits.value.set(bytes, at);
    bits.known.fill(mask, at, at + bytes.length);
  };
  if (isV4) {
    set(0, [0x45, 0]);
    // No fragment: neither more of them nor an offset.
    set(6, [0], 0x3f);
    set(7, [0]);
    set(9, [protocolNumber(packet)]);
    set(12, source.bytes);
    set(16, destination.bytes);
  } else {
    set(0, [0x60]);
    set(1, [0], 0xf0);
    set(6, [protocolNumber(packet)]);
    set(8, source.bytes);
    set(24, destination.bytes);
  }
  return bits;
}

/** The ports, and of TCP the flags. */
function transportHeader(packet: Packet): Bits {
  const { sourcePort = ephemeralPort, port, protocol, stage } = packet;
  const size = protocol === "tcp" ? 20 : 8;
  const bits = { value: new Uint8Array(size), known: new Uint8Array(size) };
  bits.value.set([sourcePort >> 8, sourcePort & 0xff, port >> 8, port & 0xff]);
  bits.known.fill(0xff, 0, 4);
  if (protocol === "tcp") {
    bits.value[13] = tcpFlags(stage);
    bits.known[13] = 0xff;
  }
  return bits;
}

/** The flags of a segment by its place in the connection. */
export function tcpFlags(stage: Packet["stage"]): number {
  if (stage === "answer") return SYN | ACK;
  return stage === "later" ? ACK : SYN;
}

function protocolNumber({ protocol }: Packet): number {
  return protocol === "tcp" ? 6 : 17;
}
