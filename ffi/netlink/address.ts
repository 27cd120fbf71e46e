/** Addresses of interfaces by rtnetlink (rtnetlink(7), linux/if_addr.h). Pure. */

import { AF_INET, AF_INET6, AF_UNSPEC } from "../constants.ts";
import {
  IFA_ADDRESS,
  IFA_BROADCAST,
  IFA_FLAGS,
  IFA_LABEL,
  IFA_LOCAL,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RTM_DELADDR,
  RTM_GETADDR,
  RTM_NEWADDR,
} from "./constants.ts";
import {
  Attributes,
  defined,
  HOST_ORDER,
  type Message,
  message,
  required,
  structOf,
  WireError,
} from "./wire.ts";

/** `struct ifaddrmsg` (linux/if_addr.h). */
const ifaddrmsg = {
  size: 8,
  ifa_family: 0,
  ifa_prefixlen: 1,
  ifa_flags: 2,
  ifa_scope: 3,
  ifa_index: 4,
} as const;

/** An address of an interface. */
export interface InterfaceAddress {
  /** The interface. */
  readonly index: number;
  /** 4 or 16 bytes, network order. */
  readonly address: Uint8Array;
  readonly prefixLength: number;
  /** The other end of a point-to-point link, if it is not `address` itself. */
  readonly peer?: Uint8Array;
  /** RT_SCOPE_*; absent for RT_SCOPE_UNIVERSE. The kernel sets that of IPv6 itself. */
  readonly scope?: number;
  /**
   * IFA_F_*; absent for none. Give a new IPv6 address IFA_F_NODAD to use it at once, without
   * waiting for the detection of duplicates; the kernel adds IFA_F_PERMANENT.
   */
  readonly flags?: number;
  readonly broadcast?: Uint8Array;
  /** IPv4: the interface's name or an alias that begins with it. */
  readonly label?: string;
}

/** Adds an address: EEXIST when the interface has it. */
export function newAddress(address: InterfaceAddress): Message {
  return encode("RTM_NEWADDR", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address);
}

/** Removes an address: EADDRNOTAVAIL when the interface has it not. */
export function deleteAddress(address: InterfaceAddress): Message {
  return encode("RTM_DELADDR", RTM_DELADDR, 0, address);
}

/** Asks for all addresses of the namespace, of one family or of AF_UNSPEC for both. */
export function dumpAddresses(family: number = AF_UNSPEC): Message {
  return message("RTM_GETADDR", RTM_GETADDR, NLM_F_DUMP, (to) => {
    to.struct(ifaddrmsg.size).setUint8(ifaddrmsg.ifa_family, family);
  });
}

function encode(operation: string, type: number, flags: number, of: InterfaceAddress): Message {
  return message(operation, type, flags, (to) => {
    const header = to.struct(ifaddrmsg.size);
    const bits = of.flags ?? 0;
    header.setUint8(ifaddrmsg.ifa_family, of.address.length === 4 ? AF_INET : AF_INET6);
    header.setUint8(ifaddrmsg.ifa_prefixlen, of.prefixLength);
    header.setUint8(ifaddrmsg.ifa_flags, bits <= 0xff ? bits : 0);
    header.setUint8(ifaddrmsg.ifa_scope, of.scope ?? 0);
    header.setUint32(ifaddrmsg.ifa_index, of.index, HOST_ORDER);
    to.bytes(IFA_LOCAL, of.address);
    to.bytes(IFA_ADDRESS, of.peer ?? of.address);
    if (of.broadcast !== undefined) to.bytes(IFA_BROADCAST, of.broadcast);
    if (of.label !== undefined) to.cstring(IFA_LABEL, of.label);
    if (bits > 0xff) to.u32(IFA_FLAGS, bits);
  });
}

/**
 * Decodes the body of RTM_NEWADDR.
 * @throws WireError
 */
export function decodeAddress(body: Uint8Array): InterfaceAddress {
  const header = structOf(body, ifaddrmsg.size);
  const attributes = new Attributes(body, ifaddrmsg.size);
  const remote = attributes.address(IFA_ADDRESS);
  const address = required(attributes.address(IFA_LOCAL) ?? remote, "IFA_LOCAL or IFA_ADDRESS");
  const family = header.getUint8(ifaddrmsg.ifa_family);
  if (family !== (address.length === 4 ? AF_INET : AF_INET6)) {
    throw new WireError(`address of ${address.length} bytes in family ${family}`);
  }
  const isPeer = remote !== undefined && Buffer.compare(remote, address) !== 0;
  return defined({
    index: header.getUint32(ifaddrmsg.ifa_index, HOST_ORDER),
    address,
    prefixLength: header.getUint8(ifaddrmsg.ifa_prefixlen),
    peer: isPeer ? remote : undefined,
    scope: header.getUint8(ifaddrmsg.ifa_scope) || undefined,
    flags: (attributes.u32(IFA_FLAGS) ?? header.getUint8(ifaddrmsg.ifa_flags)) || undefined,
    broadcast: attributes.address(IFA_BROADCAST),
    label: attributes.string(IFA_LABEL),
  });
}
