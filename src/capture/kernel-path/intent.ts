/**
 * What the kernel carries by itself, without a relay: the services of the kernel path, each with
 * what it takes, where it sends it and whose address the upstream sees. Pure.
 */

import type { Mark, Port } from "../../../ffi/types.ts";
import type { Address, Family } from "../../net/address.ts";
import type { Cidr } from "../../net/cidr.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import type { FlowEndpoint, SlotChoice } from "../plan/flow-rule.ts";
import type { Guards, Protocol } from "../plan/intent.ts";

/** The bits of a connection's mark that tell the services of the kernel path apart. */
export const flowMarkMask = 0xff000000;
/** The most services of the kernel path in one network namespace: each has a mark of its own. */
export const pathServicesMax = 255;
/**
 * The slots of a service. A rule draws the number of one, and its map has an upstream for it:
 * weights are rendered to a share of 1/256, and a change moves no other slot.
 */
export const slotCount = 256;
/**
 * The same where a client's address chooses: an upstream has its slots as chance has it, and among
 * more of them its share is nearer to its weight. The relay chooses by the same slots.
 */
export const hashedSlotCount = 2_048;

/** The mark of connections of the service with this number, 1 to `pathServicesMax`. */
export function flowMark(number: number): MaskedMark {
  return { value: ((number << 24) >>> 0) as Mark, mask: flowMarkMask };
}

/** Packets that a service takes. An empty list of sources, ports or interfaces: all of them. */
export interface Selection {
  /** Every unicast address, those of other hosts, those of this host, or these networks. */
  readonly destination: "any" | "foreign" | "own" | readonly Cidr[];
  readonly sources: readonly Cidr[];
  readonly ports: readonly PortRange[];
  readonly interfaces: readonly string[];
  /** Destinations that are left alone. */
  readonly bypass: readonly Cidr[];
}

/** Whose address the upstream sees. */
export type PathSource =
  | { readonly kind: "client" }
  | { readonly kind: "self" }
  | { readonly kind: "addresses"; readonly addresses: readonly Address[] };

/** The time-outs of connections, in seconds. */
export interface PathTimeouts {
  /** An established TCP connection without a packet. */
  readonly tcpIdle: number;
  /** A TCP connection whose upstream has not answered yet. */
  readonly tcpConnect: number;
  /** A TCP connection of which one side has ended. */
  readonly tcpHalfClosed: number;
  /** A UDP flow that the upstream has not answered, and one that it has. */
  readonly udpUnreplied: number;
  readonly udpReplied: number;
}

/** The upstreams of one family. */
export interface PathPool {
  readonly family: Family;
  /** All of them, also those that get no new connections: they may have old ones. */
  readonly upstreams: readonly FlowEndpoint[];
  /** The upstream of each slot, undefined where none is alive. */
  readonly slots: readonly (FlowEndpoint | undefined)[];
}

/** A service that the kernel carries. */
export interface PathService {
  /** Undefined: the only one. */
  readonly name: string | undefined;
  /** 1 to `pathServicesMax`: which mark its connections have. */
  readonly number: number;
  readonly protocols: readonly Protocol[];
  readonly selections: readonly Selection[];
  /** Also what programs of this host send, but for the sockets that the guards name. */
  readonly local: boolean;
  readonly guards: Guards;
  readonly source: PathSource;
  readonly choice: SlotChoice;
  /** One for each family that is carried; the others are not taken. */
  readonly pools: readonly PathPool[];
  readonly timeouts: PathTimeouts;
  /** Its connections take the flowtable, if there is one. */
  readonly offload: boolean;
}

/**
 * What happens to the services when their process ends, however it does: connections are as if it
 * had never been there; new ones are refused until the next start; or the rules stay in force.
 */
export type PathEnd = "open" | "closed" | "keep";

/** What one firewall table carries. */
export interface PathIntent {
  readonly tableName: string;
  readonly services: readonly PathService[];
  /**
   * Interfaces by which an upstream is reached. A client on the same one would be answered past
   * this host: there the upstream sees an address of this host.
   */
  readonly sameLink: readonly string[];
  /** The interfaces of the flowtable; empty: there is none. */
  readonly offload: readonly string[];
  /** Families in which packets are forwarded to other hosts. */
  readonly forwards: readonly Family[];
  /** Whether the kernel settings are set, or only named. */
  readonly sysctl: boolean;
  readonly onExit: PathEnd;
  /** What the services listen at, a text each: by these the next process knows its own rules. */
  readonly listeners: readonly string[];
}

/**
 * The upstreams beside which another one gets new connections: a client that one of these refuses
 * may go there. An upstream that has just lost its slots is among them: its refusals may still be
 * on their way.
 */
export function retriedEndpoints({ upstreams, slots }: PathPool): readonly FlowEndpoint[] {
  const live = new Set(slots.flatMap((each) => (each === undefined ? [] : [endpointKey(each)])));
  return upstreams.filter((each) => live.size > (live.has(endpointKey(each)) ? 1 : 0));
}

/** A text that is the same for the same address and port. */
export function endpointKey({ address, port }: { address: Address; port: Port }): string {
  return `${Buffer.from(address.bytes).toString("hex")}:${port}`;
}
