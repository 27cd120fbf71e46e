/**
 * The extensions of iptables as nft_compat.c carries them and as iptables-legacy has them. Pure.
 * Structures: linux/netfilter/xt_*.h, in host order. Conditions that a single packet cannot
 * answer (`recent`, `statistic`, `set` …) are "maybe", with the extension's name as the reason.
 */

import { NF_DROP } from "../../../ffi/netlink/constants.ts";
import type { CompatExtension } from "../../../ffi/netlink/nftables/expr/compat.ts";
import { HOST_ORDER, NETWORK_ORDER } from "../../../ffi/netlink/wire.ts";
import {
  XT_CONNMARK_SAVE,
  XT_CONNMARK_SET,
  XT_CT_NOTRACK,
} from "../../../ffi/xtables-constants.ts";
import type { ChainContext } from "./context.ts";
import { type Effect, fails, matches, maybe, type Outcome } from "./effect.ts";
import type { PacketState } from "./state.ts";
import { matchers } from "./xtables-matches.ts";

/** Targets that leave the packet where it is. */
const harmless = new Set([
  ...["AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "DSCP", "ECN", "HL", "IDLETIMER", "LED"],
  ...["LOG", "NFLOG", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE"],
  ...["TTL", "ULOG"],
]);
/** Matches on protocols that the packet does not have. */
const otherProtocols = new Set(["ah", "dccp", "esp", "icmp", "icmp6", "ipcomp", "sctp"]);

/** Carries out a match or a target. */
export function runExtension(
  { kind, name, revision, info }: CompatExtension,
  context: ChainContext,
  state: PacketState,
): Outcome {
  try {
    const view = new DataView(info.buffer, info.byteOffset, info.length);
    if (kind === "target") return target(name, view, context, state, revision);
    if (otherProtocols.has(name)) return fails;
    const match = Object.hasOwn(matchers, name) ? matchers[name] : undefined;
    return match?.(view, context, state, revision) ?? maybe(`-m ${name}`);
  } catch (error) {
    // Its structure is shorter than it should be.
    if (!(error instanceof RangeError)) throw error;
    return kind === "target" ? { kind: "unknown", reason: `-j ${name}` } : maybe(`-m ${name}`);
  }
}

function target(
  name: string,
  info: DataView,
  { packet }: ChainContext,
  state: PacketState,
  revision: number,
): Outcome {
  if (harmless.has(name)) return matches;
  switch (name) {
    case "MARK": {
      const [value, mask] = [info.getUint32(0, HOST_ORDER), info.getUint32(4, HOST_ORDER)];
      const mark = ((state.mark & ~mask) ^ value) >>> 0;
      return { kind: "mark", mark, known: (state.markKnown | mask) >>> 0 };
    }
    case "CONNMARK":
      return connectionMark(info, state, revision);
    case "TPROXY": {
      const [mask, value] = [info.getUint32(0, HOST_ORDER), info.getUint32(4, HOST_ORDER)];
      const width = packet.destination.family === 4 ? 4 : 16;
      const address = new Uint8Array(info.buffer, info.byteOffset + 8, width).slice();
      const port = info.getUint16(24, NETWORK_ORDER);
      return {
        kind: "tproxy",
        port: port === 0 ? packet.port : port,
        address: address.every((byte) => byte === 0) ? undefined : address,
        xtables: { mark: ((state.mark & ~mask) ^ value) >>> 0 },
      };
    }
    case "NOTRACK":
      return { kind: "untracked" };
    case "CT":
      return (info.getUint16(0, HOST_ORDER) & XT_CT_NOTRACK) !== 0
        ? { kind: "untracked" }
        : matches;
    case "REJECT":
      return { kind: "verdict", code: NF_DROP };
    case "MASQUERADE":
    case "SNAT":
      return { kind: "rewrite", side: "source" };
    case "DNAT":
    case "REDIRECT":
    case "NETMAP":
      return { kind: "rewrite", side: "destination" };
    default:
      return { kind: "unknown", reason: `-j ${name}` };
  }
}

/** `struct xt_connmark_tginfo1` and 2; the latter may shift, of which nothing is known here. */
function connectionMark(info: DataView, state: PacketState, revision: number): Effect {
  const at = (offset: number) => info.getUint32(offset, HOST_ORDER);
  const [value, ctMask, nfMask] = [at(0), at(4), at(8)];
  const mode = info.getUint8(revision < 2 ? 12 : 14);
  if (revision >= 2 && info.getUint8(13) !== 0)
    return { kind: "unknown", reason: "-j CONNMARK with a shift" };
  const { mark, markKnown, ctMark, ctMarkKnown } = state;
  if (mode === XT_CONNMARK_SET) {
    const known = (ctMarkKnown | ctMask) >>> 0;
    return { kind: "connection mark", mark: ((ctMark & ~ctMask) ^ value) >>> 0, known };
  }
  if (mode === XT_CONNMARK_SAVE) {
    const known = ((ctMarkKnown & ~ctMask) | (ctMask & (~nfMask | markKnown))) >>> 0;
    const saved = (ctMark & ~ctMask) ^ (mark & nfMask);
    return { kind: "connection mark", mark: saved >>> 0, known };
  }
  const known = ((markKnown & ~nfMask) | (nfMask & (~ctMask | ctMarkKnown))) >>> 0;
  return { kind: "mark", mark: ((mark & ~nfMask) ^ (ctMark & ctMask)) >>> 0, known };
}
