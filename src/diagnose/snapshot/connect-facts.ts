/** The facts of a connection that this host makes, from one of its addresses or from another. */

import { RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { freshState } from "../nft-evaluator/state.ts";
import {
  carried,
  isAccepted,
  isRerouted,
  type PacketTrace,
  passOut,
  passOutput,
} from "../nft-evaluator/walk.ts";
import { ephemeralPort, type Packet } from "../packet.ts";
import { addressType } from "../policy.ts";
import type { HostSnapshot, RouteLookup } from "./host.ts";
import {
  deviceName,
  gatherPath,
  isLocal,
  outputRoute,
  type PathFacts,
  surroundingsOf,
} from "./path-facts.ts";
import type { RuledChain } from "./ruleset.ts";

/** The connection to make. */
export interface ConnectQuestion {
  readonly protocol: "tcp" | "udp";
  readonly to: Address;
  readonly port: number;
  /** Undefined: the kernel's choice. */
  readonly from: Address | undefined;
  readonly mark?: number;
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly capabilities: ReadonlySet<string>;
}

/** The facts that `explain connect` judges. */
export interface ConnectFacts {
  readonly to: string;
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  /** The source that was asked for; undefined: the kernel's choice. */
  readonly wantedSource: string | undefined;
  readonly source: string | undefined;
  readonly isSourceLocal: boolean;
  readonly capabilities: ReadonlySet<string>;
  /** The route with the source, as the packet is made. */
  readonly route: RouteLookup;
  /** The route by a mark that the output hook has set, if it has. */
  readonly rerouted: RouteLookup | undefined;
  /** The name of the interface it leaves by. */
  readonly oif: string;
  readonly packet: Packet | undefined;
  /** Undefined where the rules cannot be read, or there is no packet. */
  readonly output: PacketTrace | undefined;
  readonly out: PacketTrace | undefined;
  /** The way of a reply, where it comes from another host. */
  readonly reply: PathFacts | undefined;
  /** The route of a reply that another socket of this host makes. */
  readonly localReply: RouteLookup | undefined;
  readonly chains: readonly RuledChain[];
}

/** Gathers them; asks the kernel for its routes. */
export function gatherConnect(machine: HostSnapshot, question: ConnectQuestion): ConnectFacts {
  const { protocol, to, port, from, owner, capabilities, mark = 0 } = question;
  const { family } = to;
  const { routes } = machine.policy[family];
  // Where the kernel chooses the source, it looks up a route for that, and then one with it.
  const choosing = machine.lookUp({ destination: to.bytes, mark });
  const chosen = choosing.kind === "route" ? choosing.route.preferredSource : undefined;
  const source = from ?? (chosen === undefined ? undefined : { family, bytes: chosen });
  const base = {
    to: formatAddress(to),
    port,
    protocol,
    wantedSource: from === undefined ? undefined : formatAddress(from),
    source: source === undefined ? undefined : formatAddress(source),
    isSourceLocal: source !== undefined && addressType(routes, source) === RTN_LOCAL,
    capabilities,
    chains: machine.ruleset?.chains ?? [],
  };
  const none = { packet: undefined, output: undefined, out: undefined, reply: undefined };
  if (source === undefined) {
    const rest = { rerouted: undefined, localReply: undefined };
    return { ...base, ...none, ...rest, route: choosing, oif: deviceName(machine, choosing) };
  }
  const packet: Packet = {
    ...{ protocol, source, destination: to, port, sourcePort: ephemeralPort, iif: "", owner },
    destinationType: addressType(routes, to),
    socket: { transparent: !base.isSourceLocal, wildcard: false },
  };
  const route = outputRoute(machine, packet, mark);
  const around = surroundingsOf(machine, packet);
  const leaving = (by: RouteLookup): Packet => ({ ...packet, oif: deviceName(machine, by) });
  const output =
    around === undefined || route.kind === "error"
      ? undefined
      : passOutput(around, leaving(route), freshState(mark));
  const isAnew = around !== undefined && output !== undefined && isRerouted(around, mark, output);
  const rerouted = isAnew ? outputRoute(machine, packet, output.mark) : undefined;
  const last = rerouted ?? route;
  const out =
    around === undefined || output === undefined || !isAccepted(output) || last.kind === "error"
      ? undefined
      : passOut(around, leaving(last), carried(output));
  const oif = deviceName(machine, last);
  const isHere = isLocal(last);
  return {
    ...base,
    ...{ route, rerouted, oif, packet: leaving(last), output, out },
    reply: last.kind === "error" || isHere ? undefined : replyOf(machine, packet, oif, output),
    localReply: isHere && rerouted === undefined ? localReply(machine, packet) : undefined,
  };
}

function replyOf(
  machine: HostSnapshot,
  { source, destination, port, sourcePort, ...packet }: Packet,
  iif: string,
  output: PacketTrace | undefined,
): PathFacts {
  const { protocol, socket } = packet;
  const back = { source: destination, destination: source, port: sourcePort ?? 0 };
  return gatherPath(machine, {
    packet: {
      ...{ protocol, ...back, sourcePort: port, iif, stage: "answer" },
      ...(socket === undefined ? {} : { socket }),
    },
    capture: undefined,
    ...(output === undefined ? {} : { connection: output }),
  });
}

/** How this host routes what a listener of its own answers. */
function localReply(
  machine: HostSnapshot,
  { source, destination, ...packet }: Packet,
): RouteLookup {
  const { port, sourcePort = 0 } = packet;
  const answer = { ...packet, source: destination, destination: source };
  return outputRoute(machine, { ...answer, port: sourcePort, sourcePort: port }, 0);
}
