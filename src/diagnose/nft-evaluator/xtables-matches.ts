/** The matches of iptables that one packet can answer, by their name. Pure. */

import { HOST_ORDER } from "../../../ffi/netlink/wire.ts";
import {
  XT_ADDRTYPE_INVERT_DEST,
  XT_ADDRTYPE_INVERT_SOURCE,
  XT_ADDRTYPE_LIMIT_IFACE_IN,
  XT_ADDRTYPE_LIMIT_IFACE_OUT,
  XT_CONNLIMIT_INVERT,
  XT_CONNTRACK_DIRECTION,
  XT_CONNTRACK_STATE,
  XT_CONNTRACK_STATE_DNAT,
  XT_CONNTRACK_STATE_SNAT,
  XT_CONNTRACK_STATE_UNTRACKED,
  XT_CONNTRACK_STATUS,
  XT_HASHLIMIT_INVERT,
  XT_OWNER_GID,
  XT_OWNER_SOCKET,
  XT_OWNER_UID,
  XT_PHYSDEV_OP_MASK,
  XT_POLICY_MATCH_NONE,
  XT_RPFILTER_ACCEPT_LOCAL,
  XT_RPFILTER_INVERT,
  XT_RPFILTER_LOOSE,
  XT_RPFILTER_VALID_MARK,
  XT_SOCKET_NOWILDCARD,
  XT_SOCKET_TRANSPARENT,
} from "../../../ffi/xtables-constants.ts";
import { ephemeralPort } from "../packet.ts";
import { addressType } from "../policy.ts";
import { every, type Ternary, ternary } from "./bits.ts";
import type { ChainContext } from "./context.ts";
import { condition, fails, matches, maybe, type Outcome } from "./effect.ts";
import { hasWayBack } from "./fib.ts";
import { connectionState, socketOf, tcpFlags } from "./loads.ts";
import type { PacketState } from "./state.ts";

/** Undefined: unknown. */
type Matcher = (
  info: DataView,
  context: ChainContext,
  state: PacketState,
  revision: number,
) => Outcome | undefined;

const u16 = (info: DataView, at: number) => info.getUint16(at, HOST_ORDER);
const u32 = (info: DataView, at: number) => info.getUint32(at, HOST_ORDER);

function is(holds: boolean, inverted = false): Outcome {
  return holds !== inverted ? matches : fails;
}

export const matchers: Readonly<Record<string, Matcher>> = {
  addrtype,
  comment: () => matches,
  connlimit: (info) => limit((u32(info, 20) & XT_CONNLIMIT_INVERT) !== 0),
  connmark: (info, _, { ctMark, ctMarkKnown }) => markIs(info, ctMark, ctMarkKnown),
  conntrack,
  dscp: (info) => is(info.getUint8(0) === 0, info.getUint8(1) !== 0),
  hashlimit: (info, _, __, revision) => {
    return limit((u32(info, revision < 2 ? 16 : 272) & XT_HASHLIMIT_INVERT) === 0);
  },
  helper: (info) => is(false, u32(info, 0) !== 0),
  iprange,
  limit: () => limit(true),
  mark: (info, _, { mark, markKnown }) => markIs(info, mark, markKnown),
  multiport,
  nfacct: () => matches,
  owner,
  physdev,
  pkttype: (info) => is(u32(info, 0) === 0, u32(info, 4) !== 0),
  policy: (info) => is((u16(info, 304) & XT_POLICY_MATCH_NONE) !== 0),
  rpfilter,
  socket,
  state: (info, context, state) => is((u32(info, 0) & stateBit(context, state)) !== 0),
  tcp: (info, context) => ports("tcp", info, context),
  udp: (info, context) => ports("udp", info, context),
};

/** A packet that comes alone is within every limit. */
function limit(answer: boolean): Outcome {
  return { kind: "limit", answer: ternary(answer) };
}

/** `struct xt_mark_mtinfo1`: value, mask, inverted. */
function markIs(info: DataView, mark: number, markKnown: number): Outcome {
  const [value, mask] = [u32(info, 0), u32(info, 4)];
  const isInverted = info.getUint8(8) !== 0;
  const differs = ((mark ^ value) & mask & markKnown) !== 0;
  if (differs) return is(false, isInverted);
  if ((mask & ~markKnown) !== 0) return maybe("the mark");
  return is(((mark & mask) ^ value) >>> 0 === 0, isInverted);
}

/** `struct xt_tcp` and `struct xt_udp`: first and last source port, then of the destination. */
function ports(name: "tcp" | "udp", info: DataView, { packet }: ChainContext): Outcome {
  if (name !== packet.protocol) return fails;
  const { port, sourcePort = ephemeralPort, stage } = packet;
  const flags = info.getUint8(name === "tcp" ? 11 : 8);
  const within = (value: number, at: number) =>
    value >= u16(info, at) && value <= u16(info, at + 2);
  const answers: boolean[] = [
    within(sourcePort, 0) !== ((flags & 1) !== 0),
    within(port, 4) !== ((flags & 2) !== 0),
  ];
  if (name === "tcp") {
    const [option, mask, wanted] = [info.getUint8(8), info.getUint8(9), info.getUint8(10)];
    answers.push(((tcpFlags(stage) & mask) === wanted) !== ((flags & 4) !== 0));
    if (option !== 0) return answers.includes(false) ? fails : maybe("an option of TCP");
  }
  return is(!answers.includes(false));
}

/** `struct xt_multiport_v1`: which side, how many, the ports, which begin a range, inverted. */
function multiport(info: DataView, { packet }: ChainContext): Outcome {
  const [side, count] = [info.getUint8(0), info.getUint8(1)];
  const { port, sourcePort = ephemeralPort } = packet;
  // XT_MULTIPORT_SOURCE, XT_MULTIPORT_DESTINATION, XT_MULTIPORT_EITHER
  const asked = [[sourcePort], [port], [sourcePort, port]][side] ?? [];
  let found = false;
  for (let i = 0; i < count; i++) {
    const first = u16(info, 2 + 2 * i);
    const isRange = info.getUint8(32 + i) !== 0;
    const last = isRange ? u16(info, 2 + 2 * ++i) : first;
    if (asked.some((each) => each >= first && each <= last)) found = true;
  }
  return is(found, info.getUint8(47) !== 0);
}

function socket(info: DataView, context: ChainContext): Outcome {
  const flags = info.byteLength > 0 ? info.getUint8(0) : 0;
  const found = socketOf(context);
  if (found === undefined) return fails;
  if ((flags & XT_SOCKET_TRANSPARENT) !== 0 && !found.transparent) return fails;
  return is((flags & XT_SOCKET_NOWILDCARD) !== 0 || !found.wildcard);
}

/** `struct xt_addrtype_info_v1`, and that of revision 0 with a word for each inversion. */
function addrtype(
  info: DataView,
  context: ChainContext,
  _: PacketState,
  revision: number,
): Outcome {
  const { packet, policy } = context;
  const flags =
    revision === 0
      ? (u32(info, 4) !== 0 ? XT_ADDRTYPE_INVERT_SOURCE : 0) |
        (u32(info, 8) !== 0 ? XT_ADDRTYPE_INVERT_DEST : 0)
      : u32(info, 4);
  const byDevice = flags & (XT_ADDRTYPE_LIMIT_IFACE_IN | XT_ADDRTYPE_LIMIT_IFACE_OUT);
  const name = (flags & XT_ADDRTYPE_LIMIT_IFACE_IN) !== 0 ? packet.iif : packet.oif;
  const device =
    byDevice === 0 ? undefined : (context.links.find((l) => l.name === name)?.index ?? 0);
  const sides = [
    [u16(info, 0), packet.source, XT_ADDRTYPE_INVERT_SOURCE],
    [u16(info, 2), packet.destination, XT_ADDRTYPE_INVERT_DEST],
  ] as const;
  const answers = sides.map(([types, address, inverted]): boolean => {
    if (types === 0) return true;
    const { routes } = policy[address.family];
    const isPlain = address === packet.destination && device === undefined;
    const type = isPlain ? packet.destinationType : addressType(routes, address, device);
    return ((types & (1 << type)) !== 0) !== ((flags & inverted) !== 0);
  });
  return is(!answers.includes(false));
}

/** XT_CONNTRACK_STATE_BIT() and XT_CONNTRACK_STATE_UNTRACKED of xt_conntrack.h. */
function stateBit(context: ChainContext, state: PacketState, untracked = 0x40): number {
  const bits = { invalid: 1, established: 2, related: 4, new: 8, untracked };
  return bits[connectionState(context, state)];
}

/** `struct xt_conntrack_mtinfo1` to 3: state, direction and status; the rest is unknown. */
function conntrack(
  info: DataView,
  context: ChainContext,
  state: PacketState,
  revision: number,
): Outcome {
  const [flags, inverted] = [u16(info, 146), u16(info, 148)];
  const stateMask = revision === 1 ? info.getUint8(150) : u16(info, 150);
  const connection = connectionState(context, state);
  const isTracked = connection !== "invalid" && connection !== "untracked";
  const answers: Ternary[] = [];
  const add = (flag: number, answer: boolean) => {
    if ((flags & flag) !== 0) answers.push(ternary(answer !== ((inverted & flag) !== 0)));
  };
  let bits = stateBit(context, state, XT_CONNTRACK_STATE_UNTRACKED);
  for (const { side } of isTracked ? state.rewritten : []) {
    bits |= side === "source" ? XT_CONNTRACK_STATE_SNAT : XT_CONNTRACK_STATE_DNAT;
  }
  add(XT_CONNTRACK_STATE, (stateMask & bits) !== 0);
  if (!isTracked) {
    return answers.includes("no") ? fails : is((flags & XT_CONNTRACK_STATE) !== 0);
  }
  add(XT_CONNTRACK_DIRECTION, context.packet.stage !== "answer");
  const rest = flags & ~(XT_CONNTRACK_STATE | XT_CONNTRACK_DIRECTION);
  if (rest !== 0) answers.push("maybe");
  const reason = rest === XT_CONNTRACK_STATUS ? "the connection's status" : "-m conntrack";
  return condition(every(answers), reason);
}

/** `struct xt_iprange_mtinfo`: first and last source, then of the destination, each 16 bytes. */
function iprange(info: DataView, { packet }: ChainContext): Outcome {
  const flags = info.getUint8(64);
  const sides = [
    [1, 0x10, 0, packet.source],
    [2, 0x20, 32, packet.destination],
  ] as const;
  for (const [flag, inverted, at, { bytes }] of sides) {
    if ((flags & flag) === 0) continue;
    const edge = (offset: number) =>
      new Uint8Array(info.buffer, info.byteOffset + at + offset, bytes.length);
    const within = Buffer.compare(bytes, edge(0)) >= 0 && Buffer.compare(bytes, edge(16)) <= 0;
    if (within === ((flags & inverted) !== 0)) return fails;
  }
  return matches;
}

/** `struct xt_owner_match_info`: first and last uid, first and last gid, what, inverted. */
function owner(info: DataView, { packet }: ChainContext): Outcome | undefined {
  const [wanted, inverted] = [info.getUint8(16), info.getUint8(17)];
  if (packet.owner === undefined) return undefined;
  const { uid, gid } = packet.owner;
  if (gid === undefined && (wanted & XT_OWNER_GID) !== 0) return undefined;
  const within = (id: number, at: number) => id >= u32(info, at) && id <= u32(info, at + 4);
  const sides: readonly (readonly [flag: number, holds: boolean])[] = [
    [XT_OWNER_UID, within(uid, 0)],
    [XT_OWNER_GID, within(gid ?? 0, 8)],
    [XT_OWNER_SOCKET, true],
  ];
  return is(
    sides.every(([flag, holds]) => {
      return (wanted & flag) === 0 || holds !== ((inverted & flag) !== 0);
    }),
  );
}

/** `struct xt_physdev_info`, of a packet that has come by no bridge port. */
function physdev(info: DataView, context: ChainContext): Outcome | undefined {
  const { packet, links } = context;
  if (links.find(({ name }) => name === packet.iif)?.kind === "bridge") return undefined;
  const [inverted, wanted] = [info.getUint8(64), info.getUint8(65)];
  return is((wanted & ~inverted & XT_PHYSDEV_OP_MASK) === 0);
}

function rpfilter(info: DataView, context: ChainContext, state: PacketState): Outcome {
  const flags = info.getUint8(0);
  const usesMark = (flags & XT_RPFILTER_VALID_MARK) !== 0;
  if (usesMark && state.markKnown !== 0xffff_ffff) return maybe("-m rpfilter of an unknown mark");
  const has = hasWayBack(context, usesMark ? state.mark : 0, {
    isLoose: (flags & XT_RPFILTER_LOOSE) !== 0,
    acceptsLocal: (flags & XT_RPFILTER_ACCEPT_LOCAL) !== 0,
  });
  if (has === "maybe") return maybe("-m rpfilter");
  return is(has, (flags & XT_RPFILTER_INVERT) !== 0);
}
