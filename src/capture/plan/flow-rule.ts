/**
 * What firewall rules say about connections as connection tracking knows them, and the objects that
 * such rules use: the vocabulary of the kernel path. nf_tables alone has it, and iptables has not.
 */

import type { Port } from "../../../ffi/types.ts";
import type { Address, Family } from "../../net/address.ts";
import type { MaskedMark } from "../../net/mark.ts";

/** The seed of the hash over clients' addresses: the same after every start. */
export const hashSeed = 0x74707278;

/** The states of `ct state`. */
export type FlowState = "invalid" | "established" | "related" | "new";

/**
 * A condition on a packet's connection, or one that only the kernel path asks for; `except` turns
 * one of `Exceptable` round.
 */
export type FlowMatchOf<Exceptable> =
  /** The connection's mark has this value within the mask. */
  | { readonly kind: "flow-mark"; readonly mark: MaskedMark }
  | { readonly kind: "flow-state"; readonly states: readonly FlowState[] }
  /** Its destination was translated. */
  | { readonly kind: "translated" }
  /** Its destination was not translated. */
  | { readonly kind: "untranslated" }
  /** Its source was translated. */
  | { readonly kind: "source-translated" }
  /** The first packet of a TCP connection: SYN alone of SYN, ACK, FIN and RST. */
  | { readonly kind: "syn" }
  /** A reset of TCP that answers a SYN: the upstream refuses the connection. */
  | { readonly kind: "refusal" }
  /** To an address of this host. */
  | { readonly kind: "own-destination" }
  | { readonly kind: "output-interface"; readonly names: readonly string[] }
  /** From an address and port of this set of endpoints. */
  | { readonly kind: "from-endpoint"; readonly set: string }
  /** Of a TCP connection that is not established, to an upstream of this set of endpoints. */
  | { readonly kind: "unestablished"; readonly set: string }
  /** Any packet that does not meet this condition. */
  | { readonly kind: "except"; readonly match: Exceptable };

/**
 * How a connection gets one of a map's slots: in turn, or by its client's address. A slot without
 * an upstream ends the rule.
 */
export type SlotChoice = "turn" | "source";

/** What happens to a packet's connection. */
export type FlowStatement =
  /** Replaces the bits of the mask in the connection's mark. */
  | { readonly kind: "mark-flow"; readonly mark: MaskedMark }
  /** The connection has the time-outs of this object. */
  | { readonly kind: "flow-timeout"; readonly name: string }
  /** Destination NAT to the upstream of a slot. */
  | {
      readonly kind: "to-upstream";
      readonly map: string;
      readonly slots: number;
      readonly choice: SlotChoice;
    }
  /** Source NAT to this address; without one to its own, which keeps the rules of others off it. */
  | { readonly kind: "from-address"; readonly address?: Address }
  /** Source NAT to the address of the interface that the packet leaves by. */
  | { readonly kind: "masquerade" }
  /** TCP is answered with a reset, everything else with "port unreachable". */
  | { readonly kind: "reject" }
  | { readonly kind: "drop" }
  /** Further packets of the flow take the flowtable, once it is established. */
  | { readonly kind: "offload"; readonly flowtable: string };

/** An upstream as rules know it. */
export interface FlowEndpoint {
  readonly address: Address;
  readonly port: Port;
}

/** Objects of a table that rules about connections use. */
export type FlowObject =
  /** A map from the numbers of slots to upstreams of the family. */
  | {
      readonly kind: "slots";
      readonly name: string;
      readonly family: Family;
      readonly slots: readonly (FlowEndpoint | undefined)[];
    }
  /** A set of addresses with ports. */
  | {
      readonly kind: "endpoints";
      readonly name: string;
      readonly family: Family;
      readonly endpoints: readonly FlowEndpoint[];
    }
  /** Time-outs in seconds by conntrack's states, as nft(8) names them. */
  | {
      readonly kind: "timeouts";
      readonly name: string;
      readonly family: Family;
      readonly protocol: "tcp";
      readonly seconds: Readonly<Partial<Record<TcpTimeout, number>>>;
    }
  | {
      readonly kind: "timeouts";
      readonly name: string;
      readonly family: Family;
      readonly protocol: "udp";
      readonly seconds: Readonly<Partial<Record<UdpTimeout, number>>>;
    }
  | { readonly kind: "flowtable"; readonly name: string; readonly devices: readonly string[] };

export type TcpTimeout =
  | ("syn_sent" | "established" | "fin_wait" | "close_wait")
  | ("last_ack" | "time_wait" | "close");
export type UdpTimeout = "unreplied" | "replied";
