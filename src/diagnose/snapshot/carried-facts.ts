/**
 * The facts of a connection that the kernel is to carry to an upstream by itself: its first packet
 * comes in, its destination is translated, it is forwarded, and the reply comes back the same way.
 * Asks the kernel for routes; no judgement.
 */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import type { Address } from "../../net/address.ts";
import { freshState, type PacketState } from "../nft-evaluator/state.ts";
import {
  carried,
  isAccepted,
  type PacketTrace,
  passForward,
  passIn,
  passInput,
  passOut,
} from "../nft-evaluator/walk.ts";
import { ephemeralPort, type Packet } from "../packet.ts";
import { addressType } from "../policy.ts";
import type { HostSnapshot, RouteLookup } from "./host.ts";
import { deviceName, isLocal, surroundingsOf } from "./path-facts.ts";
import type { RuledChain } from "./ruleset.ts";

/** A connection of a client, and the upstream that it is to be carried to. */
export interface CarriedQuestion {
  readonly packet: Pick<Packet, "protocol" | "source" | "destination" | "port" | "iif">;
  readonly upstream: { readonly address: Address; readonly port: number };
  /** The upstream is to see the client's address. */
  readonly keepsClient: boolean;
  /** Our own firewall table, whose rules are no one else's; undefined: there is none. */
  readonly table: string | undefined;
}

/** A packet's way behind its translation; undefined where rules cannot be read. */
export interface CarriedWay {
  readonly packet: Packet;
  readonly route: RouteLookup;
  /** FORWARD, or INPUT where the packet is for this host. */
  readonly through: PacketTrace | undefined;
  readonly out: PacketTrace | undefined;
}

export interface CarriedFacts {
  readonly question: CarriedQuestion;
  readonly packet: Packet;
  /** Undefined if the firewall's rules cannot be read. */
  readonly passage: PacketTrace | undefined;
  /** From the client, as the upstream gets it. */
  readonly onward: CarriedWay;
  /** The name of the interface towards the upstream. */
  readonly oif: string;
  /** The upstream is on this host. */
  readonly isHere: boolean;
  /** The first reply; undefined where it does not pass this host's hooks, or cannot be told. */
  readonly reply: (CarriedWay & { readonly passage: PacketTrace | undefined }) | undefined;
  readonly replyOif: string;
  /** Undefined if it cannot be read. */
  readonly forwards: boolean | undefined;
  /** nf_conntrack_acct; undefined where connection tracking is not in use yet. */
  readonly counts: boolean | undefined;
  readonly chains: readonly RuledChain[];
}

/** Gathers them from a reading of the host. Our own rules are left out: what they do is known. */
export function gatherCarried(host: HostSnapshot, question: CarriedQuestion): CarriedFacts {
  const { upstream } = question;
  const machine = withoutTable(host, question.table);
  const { family } = question.packet.destination;
  const { routes } = machine.policy[family];
  const destinationType = addressType(routes, question.packet.destination);
  const packet: Packet = { ...question.packet, destinationType };
  const around = surroundingsOf(machine, packet);
  const passage = around && passIn(around, packet, freshState(), isAccepted);
  const translated: Packet = {
    ...packet,
    destination: upstream.address,
    port: upstream.port,
    destinationType: addressType(routes, upstream.address),
  };
  const state = passage && translatedState(passage);
  const onward = wayOf(machine, translated, state);
  const oif = deviceName(machine, onward.route);
  const isHere = isLocal(onward.route);
  const answer: Packet = {
    ...{ protocol: packet.protocol, source: upstream.address, destination: packet.source },
    ...{ port: ephemeralPort, sourcePort: upstream.port, iif: oif, stage: "answer" },
    destinationType: addressType(routes, packet.source),
  };
  const reply =
    isHere || onward.route.kind === "error" ? undefined : replyOf(machine, answer, state);
  const acct = machine.sysctl("net.netfilter.nf_conntrack_acct");
  return {
    ...{ question, packet, passage, onward, oif, isHere, reply },
    replyOif: reply === undefined ? "" : deviceName(machine, reply.route),
    forwards: forwardsOf(machine, family, packet.iif),
    counts: acct === undefined ? undefined : acct === 1,
    chains: host.ruleset?.chains ?? [],
  };
}

function withoutTable(host: HostSnapshot, name: string | undefined): HostSnapshot {
  const { ruleset } = host;
  if (ruleset === undefined) return host;
  const chains = ruleset.chains.filter(({ table }) => table !== name);
  return { ...host, ruleset: { ...ruleset, chains } };
}

/** The state of a packet whose destination our rule has translated, unless another's has. */
function translatedState(passage: PacketTrace): PacketState {
  const state = carried(passage);
  if (state.rewritten.some(({ side }) => side === "destination")) return state;
  const ours = { rule: "the rule of the kernel path", side: "destination" } as const;
  return { ...state, rewritten: [...state.rewritten, ours] };
}

function wayOf(machine: HostSnapshot, packet: Packet, state: PacketState | undefined): CarriedWay {
  const route = routeOf(machine, packet, state?.mark ?? 0);
  const leaving: Packet = { ...packet, oif: deviceName(machine, route) };
  const around = surroundingsOf(machine, leaving);
  const way = { packet: leaving, route };
  if (around === undefined || state === undefined || route.kind === "error") {
    return { ...way, through: undefined, out: undefined };
  }
  if (isLocal(route)) return { ...way, through: passInput(around, packet, state), out: undefined };
  const through = passForward(around, leaving, state);
  const isThrough = isAccepted(through) !== 0;
  const out = isThrough ? passOut(around, leaving, carried(through)) : undefined;
  return { ...way, through, out };
}

/** The route of a packet that comes in, also while the kernel would not forward it. */
function routeOf(machine: HostSnapshot, packet: Packet, mark: number): RouteLookup {
  const { source, destination, port, protocol, iif } = packet;
  const link = machine.links.find(({ name }) => name === iif);
  const query = {
    ...{ destination: destination.bytes, mark, destinationPort: port },
    ...{ protocol: protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP },
  };
  // For an interface that forwards nothing the kernel finds no route but to itself.
  if (forwardsOf(machine, destination.family, iif) === false) return machine.lookUp(query);
  return machine.lookUp({ ...query, source: source.bytes, iif: link?.index ?? 0 });
}

function replyOf(
  machine: HostSnapshot,
  packet: Packet,
  state: PacketState | undefined,
): NonNullable<CarriedFacts["reply"]> {
  const around = surroundingsOf(machine, packet);
  const passage =
    around &&
    state &&
    passIn(around, packet, { ...freshState(), ctMark: state.ctMark }, isAccepted);
  return { passage, ...wayOf(machine, packet, passage && carried(passage)) };
}

/** Whether packets that come in by an interface are forwarded to other hosts. */
function forwardsOf(machine: HostSnapshot, family: 4 | 6, iif: string): boolean | undefined {
  const name = family === 6 ? "net.ipv6.conf.all.forwarding" : `net/ipv4/conf/${iif}/forwarding`;
  const value = machine.sysctl(name) ?? machine.sysctl("net.ipv4.ip_forward");
  return value === undefined ? undefined : value !== 0;
}
