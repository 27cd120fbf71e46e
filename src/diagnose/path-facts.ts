/** The facts of one packet's way through this machine: all that `path-checks.ts` judges by. */

import { NF_INET_PRE_ROUTING, RTN_LOCAL } from "../../ffi/netlink/constants.ts";
import type { InetSocket } from "../../ffi/netlink/diag.ts";
import type { RouteQuery } from "../../ffi/netlink/route.ts";
import type { Address } from "../net/address.ts";
import type { MaskedMark } from "../net/mark.ts";
import { type Passage, passFirewall } from "./firewall.ts";
import { findSocket, type Wanted } from "./lookup.ts";
import type { Machine, RouteLookup } from "./machine.ts";
import type { Packet } from "./packet.ts";
import { addressType, type Decision, decide, type PolicyTables } from "./policy.ts";

/** What was meant to happen to the packet; absent when only the machine is asked. */
export interface Capture {
  readonly mark: MaskedMark;
  readonly table: number;
  readonly priority: number | undefined;
  /** The listener's port by TPROXY; undefined: the mark alone. */
  readonly toPort: number | undefined;
}

/** Settings that decide whether a packet's source is accepted, as they are in force for `iif`. */
export interface SourceSettings {
  readonly rpFilter: number;
  readonly srcValidMark: boolean;
  readonly acceptLocal: boolean;
  readonly routeLocalnet: boolean;
}

export interface PathFacts {
  readonly packet: Packet;
  readonly capture: Capture | undefined;
  /** What the firewall does with it; undefined if its rules cannot be read. */
  readonly passage: Passage | undefined;
  /** Tables of iptables' older kind that may hold further rules. */
  readonly legacyTables: readonly string[];
  readonly tables: PolicyTables;
  /** The mark it is routed by: what the firewall sets, or what was meant. */
  readonly mark: number;
  readonly unmarked: RouteLookup;
  readonly marked: RouteLookup;
  readonly decision: Decision | undefined;
  /** The route of an answer to the client. */
  readonly back: RouteLookup;
  /** Whether the source, looked up with the mark as src_valid_mark does, seems to be this host. */
  readonly isSourceLocalByMark: boolean;
  readonly isSourceLocal: boolean;
  readonly settings: SourceSettings;
  readonly loUp: boolean;
  /** The interface is a bridge, and its packets pass iptables before they are routed. */
  readonly bridgeCall: boolean;
  /** What the look-up of the socket asks for. */
  readonly wanted: Wanted;
  readonly sockets: readonly InetSocket[];
  /** Names of interfaces by their index. */
  readonly names: ReadonlyMap<number, string>;
}

/** What is asked of the machine. */
export interface PathQuestion {
  readonly packet: Omit<Packet, "destinationType">;
  readonly capture: Capture | undefined;
  /** What the output hook has marked it with, for a packet of this host itself. */
  readonly mark?: number;
}

/** Gathers the facts of a packet from a reading of the machine; asks the kernel for its routes. */
export function gatherPath(machine: Machine, question: PathQuestion): PathFacts {
  const { capture } = question;
  const { family } = question.packet.destination;
  const tables = machine.policy[family];
  const destinationType = addressType(tables.routes, question.packet.destination);
  const packet: Packet = { ...question.packet, destinationType };
  const link = machine.links.find(({ name }) => name === packet.iif);
  const iif = link?.index ?? 0;
  const sockets = machine.sockets[packet.protocol];
  const wantedOf = (target: { address: Uint8Array | undefined; port: number }): Wanted => ({
    protocol: packet.protocol,
    address: target.address ?? primaryAddress(machine, iif, family) ?? packet.destination.bytes,
    port: target.port,
    iif,
  });
  const passage =
    machine.ruleset &&
    passFirewall(
      machine.ruleset,
      packet,
      NF_INET_PRE_ROUTING,
      (target) => findSocket(sockets, wantedOf(target))?.transparent ?? false,
      question.mark,
    );
  const mark = markOf(passage, capture);
  const target = passage?.tproxy ?? passage?.missed;
  const toPort = capture?.toPort;
  const { destination, source, port } = packet;
  const look = (query: Omit<RouteQuery, "destination">, to: Address = destination) =>
    machine.lookUp({ destination: to.bytes, ...query });
  const isSourceLocal = addressType(tables.routes, source) === RTN_LOCAL;
  // What loops through lo keeps the route that it left by: it is not looked up again.
  const way = packet.iif === "lo" && isSourceLocal ? {} : { iif, source: source.bytes };
  return {
    packet,
    capture,
    passage,
    legacyTables: machine.legacyTables ?? [],
    tables,
    mark,
    unmarked: look({ ...way, mark: 0 }),
    marked: look({ ...way, mark }),
    decision: decide(tables, packet, mark),
    back: look({}, source),
    isSourceLocalByMark: isLocal(look({ mark }, source)),
    isSourceLocal,
    settings: sourceSettings(machine, packet.iif),
    loUp: machine.links.some(({ loopback, up }) => loopback && up),
    bridgeCall: link?.kind === "bridge" && bridgeCalls(machine, family),
    wanted:
      target !== undefined
        ? wantedOf(target)
        : toPort !== undefined
          ? wantedOf({ address: undefined, port: toPort })
          : wantedOf({ address: destination.bytes, port }),
    sockets,
    names: new Map(machine.links.map((each) => [each.index, each.name])),
  };
}

/** Whether a look-up says that packets are delivered to this host. */
export function isLocal(lookup: RouteLookup): boolean {
  return lookup.kind === "route" && lookup.route.type === RTN_LOCAL;
}

/** The mark after the firewall if that is what was meant to be, otherwise what was meant. */
function markOf(passage: Passage | undefined, capture: Capture | undefined): number {
  if (capture === undefined) return passage?.mark ?? 0;
  const { value, mask } = capture.mark;
  const isMarked = passage !== undefined && (passage.mark & mask) >>> 0 === value;
  return isMarked ? passage.mark : value;
}

/** The address that TPROXY takes for an interface when the rule names none: its first. */
function primaryAddress(machine: Machine, index: number, family: 4 | 6): Uint8Array | undefined {
  const IFA_F_SECONDARY = 0x01;
  const width = family === 4 ? 4 : 16;
  const RT_SCOPE_LINK = 253;
  return machine.addresses.find((each) => {
    const isSecondary = ((each.flags ?? 0) & IFA_F_SECONDARY) !== 0 && family === 4;
    const isLinkLocal = family === 6 && each.scope === RT_SCOPE_LINK;
    return each.index === index && each.address.length === width && !isSecondary && !isLinkLocal;
  })?.address;
}

/** IN_DEV_MAXCONF and IN_DEV_ORCONF of linux/inetdevice.h. */
function sourceSettings({ sysctl }: Machine, iif: string): SourceSettings {
  const values = (name: string) =>
    ["all", iif].map((which) => sysctl(`net/ipv4/conf/${which}/${name}`) ?? 0);
  return {
    rpFilter: Math.max(...values("rp_filter")),
    srcValidMark: values("src_valid_mark").includes(1),
    acceptLocal: values("accept_local").includes(1),
    routeLocalnet: values("route_localnet").includes(1),
  };
}

function bridgeCalls({ sysctl }: Machine, family: 4 | 6): boolean {
  return sysctl(`net.bridge.bridge-nf-call-${family === 4 ? "iptables" : "ip6tables"}`) === 1;
}
