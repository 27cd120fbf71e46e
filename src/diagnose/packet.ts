import type { Address } from "../net/address.ts";

/** A packet on its way in, with what the kernel knows of it. */
export interface Packet {
  readonly protocol: "tcp" | "udp";
  readonly source: Address;
  readonly destination: Address;
  readonly port: number;
  /** Undefined: the client's choice. */
  readonly sourcePort?: number;
  /** The interface it arrives by. */
  readonly iif: string;
  /** The RTN_* of its destination, as the local table has it. */
  readonly destinationType: number;
  /** The connected socket that it belongs to, if there is one. */
  readonly socket?: { readonly transparent: boolean; readonly wildcard: boolean };
}
