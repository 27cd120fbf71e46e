/** A firewall rule as data: its conditions, what it does, what it is for. */

import type { Port } from "../../../ffi/types.ts";
import type { Address, Family } from "../../net/address.ts";
import type { Cidr } from "../../net/cidr.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import type { FlowMatchOf, FlowStatement } from "./flow-rule.ts";
import type { Protocol } from "./intent.ts";

/** Kinds of destination address, as rtnetlink and nft's `fib daddr type` name them. */
export type AddressType = "local" | "broadcast" | "anycast" | "multicast";

/**
 * A condition on a packet. A list is met if one of its entries is. Networks are of the rule's
 * family, ascending, and neither overlap nor are halves of one; those of a long list are also the
 * set of the table that `set` names.
 */
type PlainMatch =
  | { readonly kind: "interface"; readonly names: readonly string[] }
  | { readonly kind: "protocol"; readonly protocol: Protocol }
  | { readonly kind: "source"; readonly networks: readonly Cidr[]; readonly set?: string }
  | { readonly kind: "destination"; readonly networks: readonly Cidr[]; readonly set?: string }
  | { readonly kind: "destination-type"; readonly not: readonly AddressType[] }
  | { readonly kind: "destination-port"; readonly ranges: readonly PortRange[] }
  | { readonly kind: "mark"; readonly mark: MaskedMark }
  /** Whose socket sends it: the effective ids, or a path below the root of cgroup v2. */
  | { readonly kind: "user"; readonly id: number }
  | { readonly kind: "group"; readonly id: number }
  | { readonly kind: "cgroup"; readonly path: string }
  /** From the accepting end of a connection that conntrack knows. */
  | { readonly kind: "reply" }
  /** No first packet of a TCP connection: not SYN alone of SYN, ACK, FIN and RST. */
  | { readonly kind: "not-syn" }
  /** For a transparent socket of this host that is bound to one address. */
  | { readonly kind: "transparent-socket" }
  /**
   * For a transparent socket of this host that is connected to the packet's sender, or has been
   * (TIME_WAIT). nf_tables finds those, and nothing else, by a TPROXY to a port where nobody
   * listens, `unused`. iptables cannot ask for it: `asked` are the ports that clients send to,
   * where only conntrack distinguishes replies of UDP from requests; none: every port.
   */
  | {
      readonly kind: "connected-socket";
      readonly unused: number;
      readonly asked: readonly PortRange[];
    }
  /** ICMP of the rule's family; with a socket: an error about one of its packets. */
  | { readonly kind: "icmp" };

/** The conditions that `except` can turn round. */
export type Exceptable = Extract<
  PlainMatch,
  { kind: "mark" | "user" | "group" | "cgroup" | "destination" }
>;
/** A condition of the kernel path. */
export type FlowMatch = FlowMatchOf<Exceptable>;
/** A condition on a packet. */
export type Match = PlainMatch | FlowMatch;

/**
 * What happens to a packet that meets every condition of its rule, in this order. `mark` replaces
 * the bits of the mask and leaves the others. `tproxy` hands the packet to the transparent
 * listener on that port of this host, and of that address if there is one. `redirect` is NAT to
 * that port of this host. `return` leaves the packet alone: no later rule of the chain sees it.
 * `jump` goes on in another chain of the table, and comes back if no rule there accepts the packet;
 * after `accept` no rule of the hook's chains in this table sees it.
 */
export type Statement =
  | { readonly kind: "mark"; readonly mark: MaskedMark }
  | { readonly kind: "tproxy"; readonly port: Port; readonly address?: Address }
  | { readonly kind: "redirect"; readonly port: Port }
  | { readonly kind: "return" }
  | { readonly kind: "accept" }
  | { readonly kind: "jump"; readonly chain: string }
  | FlowStatement;

/** The purpose of a rule, which its comment names behind the table's name. */
export type Purpose =
  | ("capture" | "bypass" | "guard" | "reply path" | "errors" | "local" | "drain")
  | ("upstream" | "no upstream" | "invalid" | "source" | "offload" | "retry" | "closed");

/** A firewall rule for one family. */
export interface FirewallRule {
  readonly family: Family;
  readonly purpose: Purpose;
  /** The service that it is for, which its comment names; undefined: all, or the only one. */
  readonly service?: string | undefined;
  readonly matches: readonly Match[];
  readonly statements: readonly Statement[];
}
