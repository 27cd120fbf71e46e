/** The surroundings of a packet while a chain's rules test it. Pure. */

import type { Link } from "../../../ffi/netlink/link.ts";
import type { Family } from "../../net/address.ts";
import type { Packet } from "../packet.ts";
import type { PolicyTables } from "../policy.ts";
import type { Ruleset } from "../snapshot/ruleset.ts";
import type { TproxyTarget } from "./state.ts";

/** Returns whether a transparent socket takes what TPROXY would hand over. */
export type TproxyLookup = (target: TproxyTarget) => boolean;

/** The properties of a socket that rules can test. */
export interface SocketFacts {
  readonly transparent: boolean;
  readonly wildcard: boolean;
}

/** The host that a packet passes. */
export interface Surroundings {
  readonly ruleset: Ruleset;
  readonly links: readonly Link[];
  readonly policy: Readonly<Record<Family, PolicyTables>>;
  readonly tproxyTakes: TproxyLookup;
  /** The socket that waits for such a first packet, if any. */
  readonly listener: SocketFacts | undefined;
}

/** A packet in a base chain. */
export interface ChainContext extends Surroundings {
  readonly packet: Packet;
  readonly base: {
    readonly family: number;
    readonly hook: number;
    readonly priority: number;
    readonly type: string;
    /** As people name it: `inet filter input`. */
    readonly name: string;
  };
}
