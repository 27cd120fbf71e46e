/**
 * The expression `fib` and the match `rpfilter`, looked up in the routing tables: nft_fib_ipv4.c,
 * nft_fib_ipv6.c and ipt_rpfilter.c of Linux. Pure.
 *
 * The look-up is made as for a packet of this host itself: ip rules with `iif lo` select it, those
 * with another interface do not. What it finds to be local, or not unicast, counts as missing. So
 * a mark that sends everything to a local route, looked up with `mark`, makes every source seem
 * to have no way back.
 */

import { RTN_LOCAL, RTN_UNICAST } from "../../../ffi/netlink/constants.ts";
import {
  type FibLoad,
  NFT_FIB_RESULT_ADDRTYPE,
  NFT_FIB_RESULT_OIF,
  NFTA_FIB_F_DADDR,
  NFTA_FIB_F_IIF,
  NFTA_FIB_F_MARK,
  NFTA_FIB_F_OIF,
  NFTA_FIB_F_PRESENT,
} from "../../../ffi/netlink/nftables/expr/fib.ts";
import type { Address } from "../../net/address.ts";
import { addressType, decide } from "../policy.ts";
import { type Bits, host32, known, unknownBits } from "./bits.ts";
import type { ChainContext } from "./context.ts";
import type { PacketState } from "./state.ts";

/** The value that `fib` loads. */
export function loadFib(context: ChainContext, state: PacketState, load: FibLoad): Bits {
  const isDestination = (load.flags & NFTA_FIB_F_DADDR) !== 0;
  if (load.result === NFT_FIB_RESULT_ADDRTYPE) return loadType(context, state, load);
  if ((load.flags & NFTA_FIB_F_MARK) !== 0 && state.markKnown !== 0xffff_ffff) {
    return unknownBits(4);
  }
  const mark = (load.flags & NFTA_FIB_F_MARK) !== 0 ? state.mark : 0;
  const wanted = deviceOf(context, load.flags);
  const found = findDevice(context, mark, isDestination, wanted);
  if (found === "maybe") return unknownBits(load.result === NFT_FIB_RESULT_OIF ? 4 : 16);
  if ((load.flags & NFTA_FIB_F_PRESENT) !== 0) return known(Uint8Array.of(Number(found !== 0)));
  if (load.result === NFT_FIB_RESULT_OIF) return host32(found);
  const name = context.links.find(({ index }) => index === found)?.name ?? "";
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode(name).subarray(0, 16));
  return known(bytes);
}

/** Whether a packet could be answered by the interface it came by, as `rpfilter` asks. */
export function hasWayBack(
  context: ChainContext,
  mark: number,
  options: { readonly isLoose: boolean; readonly acceptsLocal: boolean },
): boolean | "maybe" {
  if (isLoopback(context)) return true;
  const wanted = options.isLoose ? undefined : indexOf(context, context.packet.iif);
  const found = findDevice(context, mark, false, wanted, options.acceptsLocal);
  return found === "maybe" ? found : found !== 0;
}

function loadType(context: ChainContext, state: PacketState, { flags }: FibLoad): Bits {
  const { source, destination } = context.packet;
  const isDestination = (flags & NFTA_FIB_F_DADDR) !== 0;
  const address = isDestination ? destination : source;
  const device = deviceOf(context, flags);
  if (isDestination && device === undefined && address.family === 4) {
    return host32(context.packet.destinationType);
  }
  const tables = context.policy[address.family];
  const mark = (flags & NFTA_FIB_F_MARK) !== 0 ? state.mark : 0;
  // IPv6 looks the address up in all tables, IPv4 in the local one.
  if (address.family === 6 && device === undefined) {
    const route = lookUp(context, address, isDestination ? source : destination, mark);
    if (route?.type === RTN_LOCAL) return host32(RTN_LOCAL);
  }
  return host32(addressType(tables.routes, address, device));
}

/** The interface's index, 0 for missing. */
function findDevice(
  context: ChainContext,
  mark: number,
  isDestination: boolean,
  wanted: number | undefined,
  acceptsLocal = false,
): number | "maybe" {
  const { source, destination, iif } = context.packet;
  if (isLoopback(context)) return indexOf(context, iif) ?? 0;
  const route = isDestination
    ? lookUp(context, destination, source, mark)
    : lookUp(context, source, destination, mark);
  if (route === undefined) return 0;
  if (route.type !== RTN_UNICAST && !(acceptsLocal && route.type === RTN_LOCAL)) return 0;
  const devices = route.hopInterfaces ?? (route.oif === undefined ? [] : [route.oif]);
  if (wanted === undefined) return devices.length > 1 ? "maybe" : (devices[0] ?? 0);
  return devices.includes(wanted) ? wanted : 0;
}

function lookUp(context: ChainContext, destination: Address, source: Address, mark: number) {
  const { packet, policy } = context;
  const asked = { ...packet, destination, source, port: 0, sourcePort: 0, iif: "lo" };
  return decide(policy[destination.family], asked, mark)?.route;
}

function deviceOf({ packet, ...rest }: ChainContext, flags: number): number | undefined {
  if ((flags & NFTA_FIB_F_OIF) !== 0) return indexOf({ packet, ...rest }, packet.oif ?? "") ?? 0;
  if ((flags & NFTA_FIB_F_IIF) !== 0) return indexOf({ packet, ...rest }, packet.iif) ?? 0;
  return undefined;
}

function indexOf({ links }: ChainContext, wanted: string): number | undefined {
  return links.find(({ name }) => name === wanted)?.index;
}

function isLoopback({ packet, links }: ChainContext): boolean {
  return packet.iif === "lo" || links.some((each) => each.name === packet.iif && each.loopback);
}
