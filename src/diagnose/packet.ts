import type { Address } from "../net/address.ts";

/**
 * A packet's place in its connection: the initiator's first one, the other side's answer
 * to that, or a later one of the initiator.
 */
export type Stage = "first" | "answer" | "later";

/** A packet at one hook, with what the kernel knows of it. */
export interface Packet {
  readonly protocol: "tcp" | "udp";
  readonly source: Address;
  readonly destination: Address;
  readonly port: number;
  /** Undefined: the client's choice. */
  readonly sourcePort?: number;
  /** The interface it arrives by; empty for one that this host sends. */
  readonly iif: string;
  /** The interface it leaves by, where that has been decided. */
  readonly oif?: string;
  /** Absent: the first one. */
  readonly stage?: Stage;
  /** The RTN_* of its destination, as the local table has it. */
  readonly destinationType: number;
  /** The socket that it belongs to, if there is one. */
  readonly socket?: { readonly transparent: boolean; readonly wildcard: boolean };
  /** Of the program that sends it, for a packet of this host; the group may not be known. */
  readonly owner?: { readonly uid: number; readonly gid?: number };
}

/** The port of a client where none was given: one of the ephemeral ports. */
export const ephemeralPort = 40_000;
