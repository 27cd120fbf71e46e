/** The facts of one packet's way through this machine: all that `path-checks.ts` judges by. */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH } from "../../../ffi/errno.ts";
import {
  IFA_F_SECONDARY,
  RT_SCOPE_LINK,
  RTN_BLACKHOLE,
  RTN_LOCAL,
  RTN_PROHIBIT,
  RTN_UNREACHABLE,
} from "../../../ffi/netlink/constants.ts";
import type { InetSocket } from "../../../ffi/netlink/diag.ts";
import type { Link } from "../../../ffi/netlink/link.ts";
import type { RouteQuery } from "../../../ffi/netlink/route.ts";
import type { Address } from "../../net/address.ts";
import type { MaskedMark } from "../../net/mark.ts";
import { findSocket, isWildcard, type Wanted } from "../lookup.ts";
import { masterOf } from "../master.ts";
import type { Surroundings } from "../nft-evaluator/context.ts";
import type { TproxyTarget, Trace } from "../nft-evaluator/hooks.ts";
import { freshState, type PacketState } from "../nft-evaluator/state.ts";
import {
  carried,
  hasMark,
  isAccepted,
  isRerouted,
  type PacketTrace,
  passIn,
  passInput,
  passOut,
  passOutput,
  type Rank,
} from "../nft-evaluator/walk.ts";
import { ephemeralPort, type Packet } from "../packet.ts";
import { addressType, type Decision, decide, type PolicyTables } from "../policy.ts";
import type { HostSnapshot, RouteLookup } from "./host.ts";
import { type SourceSettings, sourceSettings } from "./source-settings.ts";

/** The intended treatment of the packet; absent when only this host's own is asked for. */
export interface Capture {
  readonly mark: MaskedMark;
  readonly table: number;
  readonly priority: number | undefined;
  /** The listener's port by TPROXY; undefined: the mark alone. */
  readonly toPort: number | undefined;
}

/** The way of an answer: its route, and what the hooks do to it. */
export interface AnswerFacts {
  readonly route: RouteLookup;
  /** Undefined where the rules cannot be read, or there is no route. */
  readonly output: PacketTrace | undefined;
  readonly out: PacketTrace | undefined;
}

export interface PathFacts {
  readonly packet: Packet;
  readonly capture: Capture | undefined;
  /** The firewall's effect before routing; undefined if its rules cannot be read. */
  readonly passage: PacketTrace | undefined;
  /** How good a way through the firewall is, by what was meant. */
  readonly rank: Rank;
  /** The effect of INPUT on it, with the intended mark. */
  readonly input: PacketTrace | undefined;
  /** The same two hooks for the connection's later packets. */
  readonly later: { readonly passage: PacketTrace; readonly input: PacketTrace } | undefined;
  /** Tables of iptables' older kind that may hold further rules, which cannot be read. */
  readonly legacyTables: readonly string[];
  readonly tables: PolicyTables;
  /** The mark it is routed by: what the firewall sets, or what was meant. */
  readonly mark: number;
  readonly unmarked: RouteLookup;
  readonly marked: RouteLookup;
  readonly decision: Decision | undefined;
  /** The route of an answer to the client. */
  readonly back: RouteLookup;
  readonly answer: AnswerFacts;
  /** Whether the source, looked up with the mark as src_valid_mark does, seems to be this host. */
  readonly isSourceLocalByMark: boolean;
  readonly isSourceLocal: boolean;
  readonly settings: SourceSettings;
  readonly loUp: boolean;
  /** Packets of a bridge pass iptables before they are routed; undefined if that cannot be read. */
  readonly bridgeCall: boolean | undefined;
  /** The interface that the user named; undefined: there is none of that name. */
  readonly link: Link | undefined;
  /** The bridge or bond that the interface is a port of. */
  readonly master: Link | undefined;
  /** The keys of the socket look-up. */
  readonly wanted: Wanted;
  readonly sockets: readonly InetSocket[];
  /** Names of interfaces by their index. */
  readonly names: ReadonlyMap<number, string>;
  /** Tables of nf_tables with the names of chains that identify their owner. */
  readonly chains: Surroundings["ruleset"]["chains"];
}

/** The question to this host. */
export interface PathQuestion {
  readonly packet: Omit<Packet, "destinationType">;
  readonly capture: Capture | undefined;
  /** The mark that the output hook set, for a packet of this host itself. */
  readonly mark?: number;
  /** The connection mark that an earlier packet set. */
  readonly connection?: Pick<PacketState, "ctMark" | "ctMarkKnown" | "untracked">;
}

/** Gathers the facts of a packet from a reading of the machine; asks the kernel for its routes. */
export function gatherPath(machine: HostSnapshot, question: PathQuestion): PathFacts {
  const { capture } = question;
  const { family } = question.packet.destination;
  const tables = machine.policy[family];
  const destinationType = addressType(tables.routes, question.packet.destination);
  const packet: Packet = { ...question.packet, destinationType };
  const { destination, source, port } = packet;
  const link = machine.links.find(({ name }) => name === packet.iif);
  const iif = link?.index ?? 0;
  const sockets = machine.sockets[packet.protocol];
  const wantedOf = (target: TproxyTarget): Wanted => ({
    protocol: packet.protocol,
    address: target.address ?? primaryAddress(machine, iif, family) ?? destination.bytes,
    port: target.port,
    iif,
  });
  const around = surroundingsOf(machine, packet, (target) => wantedOf(target), sockets);
  const rank = rankOf(capture);
  const { ctMark = 0, ctMarkKnown = 0xffff_ffff } = question.connection ?? {};
  const begin = { ...freshState(question.mark), ctMark, ctMarkKnown };
  const passage = around && passIn(around, packet, begin, rank);
  const mark = markOf(passage, capture);
  const target = passage?.tproxy ?? passage?.missed;
  const toPort = capture?.toPort;
  const look = (query: Omit<RouteQuery, "destination">, to: Address = destination) =>
    machine.lookUp({ destination: to.bytes, ...query });
  const isSourceLocal = addressType(tables.routes, source) === RTN_LOCAL;
  // A packet that loops through lo keeps its route: the kernel does not look it up again.
  const isLooped = packet.iif === "lo" && isSourceLocal;
  const way = isLooped ? { source: source.bytes } : { iif, source: source.bytes };
  const wanted =
    target !== undefined
      ? wantedOf(target)
      : wantedOf({
          address: toPort === undefined ? destination.bytes : undefined,
          port: toPort ?? port,
        });
  const uid = findSocket(sockets, wanted)?.uid;
  const owner = uid === undefined ? {} : { owner: { uid } };
  const answer = answerFacts(machine, around, { ...packet, ...owner }, passage);
  return {
    packet,
    capture,
    passage,
    rank,
    input: passage && around && passInput(around, packet, carried(passage, mark)),
    later:
      passage && around && laterFacts(around, packet, carried(passage, question.mark ?? 0), rank),
    legacyTables: machine.legacyTables,
    tables,
    mark,
    unmarked: look({ ...way, mark: 0 }),
    marked: look({ ...way, mark }),
    decision: decide(tables, packet, mark),
    back: answer.route,
    answer,
    isSourceLocalByMark: isLocal(look({ mark }, source)),
    isSourceLocal,
    settings: sourceSettings(machine.sysctl, packet.iif),
    loUp: machine.links.some(({ loopback, up }) => loopback && up),
    bridgeCall: link?.kind === "bridge" ? bridgeCalls(machine, family) : false,
    link,
    master: masterOf(link, machine.links),
    wanted,
    sockets,
    names: new Map(machine.links.map((each) => [each.index, each.name])),
    chains: machine.ruleset?.chains ?? [],
  };
}

/** The host's state that rules can test for a packet; undefined if it cannot be read. */
export function surroundingsOf(
  machine: HostSnapshot,
  packet: Packet,
  wantedOf?: (target: TproxyTarget) => Wanted,
  sockets: readonly InetSocket[] = [],
): Surroundings | undefined {
  const { ruleset, links, policy } = machine;
  if (ruleset === undefined) return undefined;
  const find = (target: TproxyTarget) =>
    wantedOf === undefined ? undefined : findSocket(sockets, wantedOf(target));
  const { destination, port } = packet;
  const listener = find({ address: destination.bytes, port });
  return {
    ruleset,
    links,
    policy,
    tproxyTakes: (target) => find(target)?.transparent ?? false,
    listener: listener && {
      transparent: listener.transparent ?? false,
      wildcard: isWildcard(listener),
    },
  };
}

/** Sorts the intended treatment first, then packets that pass. */
function rankOf(capture: Capture | undefined): Rank {
  return (trace) => {
    if (trace.verdict === "drop") return 0;
    if (capture === undefined) return trace.marking.length > 0 ? 2 : 1;
    if (!hasMark(trace, capture.mark)) return 1;
    const target = trace.tproxy ?? trace.missed;
    return capture.toPort === undefined || target?.port === capture.toPort ? 3 : 2;
  };
}

/** A later packet of the connection, once a socket has it. */
function laterFacts(around: Surroundings, first: Packet, state: PacketState, rank: Rank) {
  const socket = { transparent: true, wildcard: false };
  const packet: Packet = { ...first, stage: "later", socket };
  const passage = passIn(around, packet, { ...state, untracked: false }, rank);
  return { passage, input: passInput(around, packet, carried(passage)) };
}

/** The answer to a packet, from the address it asked for. */
function answerFacts(
  machine: HostSnapshot,
  around: Surroundings | undefined,
  asked: Packet,
  passage: Trace | undefined,
): AnswerFacts {
  const { protocol, source, destination, port, sourcePort = ephemeralPort, owner } = asked;
  const { routes } = machine.policy[source.family];
  const packet: Packet = {
    protocol,
    source: destination,
    destination: source,
    port: sourcePort,
    sourcePort: port,
    iif: "",
    stage: "answer",
    destinationType: addressType(routes, source),
    socket: { transparent: true, wildcard: false },
    ...(owner === undefined ? {} : { owner }),
  };
  const first = outputRoute(machine, packet, 0);
  if (around === undefined || passage === undefined || first.kind === "error") {
    return { route: first, output: undefined, out: undefined };
  }
  const leaving = (route: RouteLookup): Packet => ({ ...packet, oif: deviceName(machine, route) });
  const output = passOutput(around, leaving(first), carried(passage, 0));
  const isAnew = isRerouted(around, 0, output);
  const route = isAnew ? outputRoute(machine, packet, output.mark) : first;
  if (isAccepted(output) === 0 || route.kind === "error") return { route, output, out: undefined };
  return { route, output, out: passOut(around, leaving(route), carried(output)) };
}

/** The name of the interface that a route leaves by. */
export function deviceName({ links }: HostSnapshot, route: RouteLookup): string {
  const index = route.kind === "route" ? route.route.oif : undefined;
  return links.find((each) => each.index === index)?.name ?? "lo";
}

/**
 * The route of a packet that this host sends. The kernel looks up no foreign source of IPv4 for us,
 * so where ip rules ask for sources, its tables are read here.
 */
export function outputRoute(machine: HostSnapshot, packet: Packet, mark: number): RouteLookup {
  const { source, destination, protocol, port, sourcePort } = packet;
  const tables = machine.policy[destination.family];
  const query = {
    ...{ destination: destination.bytes, mark },
    ...{ protocol: protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP, destinationPort: port },
    ...(sourcePort === undefined ? {} : { sourcePort }),
  };
  const isOwn = addressType(tables.routes, source) === RTN_LOCAL;
  if (isOwn || destination.family === 6) {
    return machine.lookUp({ ...query, source: source.bytes });
  }
  if (!tables.rules.some((rule) => rule.source !== undefined)) return machine.lookUp(query);
  const route = decide(tables, { ...packet, iif: "lo" }, mark)?.route;
  const errno = route === undefined ? ENETUNREACH : refusals.get(route.type);
  if (route === undefined || errno !== undefined) {
    return { kind: "error", errno: errno ?? ENETUNREACH };
  }
  return { kind: "route", route };
}

/** The errors of rejecting route types: fib_props[] of net/ipv4/fib_semantics.c. */
const refusals: ReadonlyMap<number, number> = new Map<number, number>([
  [RTN_BLACKHOLE, EINVAL],
  [RTN_UNREACHABLE, EHOSTUNREACH],
  [RTN_PROHIBIT, EACCES],
]);

/** Whether a look-up delivers packets to this host. */
export function isLocal(lookup: RouteLookup): boolean {
  return lookup.kind === "route" && lookup.route.type === RTN_LOCAL;
}

/** The mark after the firewall if that is what was meant to be, otherwise what was meant. */
function markOf(passage: PacketTrace | undefined, capture: Capture | undefined): number {
  if (capture === undefined) return passage?.mark ?? 0;
  const isMarked = passage !== undefined && hasMark(passage, capture.mark);
  return isMarked ? passage.mark : capture.mark.value;
}

/** The address that TPROXY takes for an interface when the rule names none: its first. */
function primaryAddress(
  machine: HostSnapshot,
  index: number,
  family: 4 | 6,
): Uint8Array | undefined {
  const width = family === 4 ? 4 : 16;
  return machine.addresses.find((each) => {
    const isSecondary = ((each.flags ?? 0) & IFA_F_SECONDARY) !== 0 && family === 4;
    const isLinkLocal = family === 6 && each.scope === RT_SCOPE_LINK;
    return each.index === index && each.address.length === width && !isSecondary && !isLinkLocal;
  })?.address;
}

/** Whether bridged packets pass iptables; without the bridge's settings they do not. */
function bridgeCalls({ sysctl }: HostSnapshot, family: 4 | 6): boolean | undefined {
  const value = sysctl(`net.bridge.bridge-nf-call-${family === 4 ? "iptables" : "ip6tables"}`);
  if (value !== undefined) return value === 1;
  // The file is missing although /proc is readable: br_netfilter is not loaded.
  return sysctl("net.ipv4.ip_forward") === undefined ? undefined : false;
}
