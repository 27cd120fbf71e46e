/** Network interfaces by rtnetlink (rtnetlink(7), linux/if_link.h, linux/veth.h). Pure. */

import {
  IFF_LOOPBACK,
  IFF_RUNNING,
  IFF_UP,
  IFLA_ADDRESS,
  IFLA_ALT_IFNAME,
  IFLA_EXT_MASK,
  IFLA_IFNAME,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_LINK,
  IFLA_LINK_NETNSID,
  IFLA_LINKINFO,
  IFLA_MASTER,
  IFLA_MTU,
  IFLA_NET_NS_FD,
  IFLA_PROP_LIST,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RTEXT_FILTER_SKIP_STATS,
  RTM_DELLINK,
  RTM_GETLINK,
  RTM_NEWLINK,
  VETH_INFO_PEER,
} from "./constants.ts";
import {
  Attributes,
  decodeCString,
  defined,
  HOST_ORDER,
  type Message,
  message,
  required,
  structOf,
  type Writer,
} from "./wire.ts";

/** `struct ifinfomsg` (linux/rtnetlink.h). */
const ifinfomsg = { size: 16, ifi_index: 4, ifi_flags: 8, ifi_change: 12 } as const;

/** A network interface as the kernel reports it. */
export interface Link {
  readonly index: number;
  readonly name: string;
  /** Other names by which `ip link` finds it; firewall rules match `name` alone. */
  readonly alternativeNames?: readonly string[];
  readonly up: boolean;
  /** It is up and sends; a cable just plugged in takes the kernel a moment (RFC 2863). */
  readonly running: boolean;
  readonly loopback: boolean;
  readonly mtu?: number;
  /** The driver's kind: `veth`, `dummy`; absent for hardware and lo. */
  readonly kind?: string;
  /** The link-layer address. */
  readonly address?: Uint8Array;
  /** The index of the bridge, bond or VRF that it is a port of. */
  readonly master?: number;
  /** A veth's other end, as an index of the namespace that end is in. */
  readonly peerIndex?: number;
  /** That namespace's id, when it is another one. */
  readonly peerNamespaceId?: number;
}

/** The parameters of a new interface. The kernel chooses absent ones. */
export interface NewLink {
  readonly name: string;
  readonly kind: string;
  readonly index?: number;
  readonly up?: boolean;
  readonly mtu?: number;
  readonly address?: Uint8Array;
  /** A descriptor of the namespace to make it in; otherwise the socket's. */
  readonly namespace?: number;
  /** A veth's other end. */
  readonly peer?: { readonly name: string; readonly namespace?: number };
}

/** How to name an interface to the kernel. */
export type LinkReference = { readonly index: number } | { readonly name: string };

/** Makes an interface. Fails with EEXIST when the name is taken. */
export function newLink(link: NewLink): Message {
  return message("RTM_NEWLINK", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (to) => {
    const change = link.up === undefined ? 0 : IFF_UP;
    writeHeader(to, link.index ?? 0, link.up ? IFF_UP : 0, change);
    if (link.mtu !== undefined) to.u32(IFLA_MTU, link.mtu);
    if (link.address !== undefined) to.bytes(IFLA_ADDRESS, link.address);
    if (link.namespace !== undefined) to.u32(IFLA_NET_NS_FD, link.namespace);
    to.cstring(IFLA_IFNAME, link.name);
    to.nest(IFLA_LINKINFO, () => {
      to.bytes(IFLA_INFO_KIND, new TextEncoder().encode(link.kind));
      if (link.peer !== undefined) writePeer(to, link.peer);
    });
  });
}

function writePeer(to: Writer, peer: NonNullable<NewLink["peer"]>): void {
  to.nest(IFLA_INFO_DATA, () => {
    to.nest(VETH_INFO_PEER, () => {
      writeHeader(to, 0, 0, 0);
      to.cstring(IFLA_IFNAME, peer.name);
      if (peer.namespace !== undefined) to.u32(IFLA_NET_NS_FD, peer.namespace);
    });
  });
}

/**
 * A pair of virtual Ethernet interfaces, both down: `name` in the namespace of the socket, `peer`
 * there too or straight in the namespace of the descriptor `peerNamespace`.
 */
export function newVeth(name: string, peer: string, peerNamespace?: number): Message {
  const end = defined({ name: peer, namespace: peerNamespace });
  return newLink({ kind: "veth", name, peer: end });
}

/**
 * Changes an interface: sets it up or down, renames it (older kernels: only while it is down), or
 * moves it to the namespace of a descriptor, where it may get another index.
 */
export function setLink(
  index: number,
  changes: {
    readonly up?: boolean;
    readonly name?: string;
    readonly mtu?: number;
    readonly namespace?: number;
  },
): Message {
  return message("RTM_NEWLINK", RTM_NEWLINK, 0, (to) => {
    const change = changes.up === undefined ? 0 : IFF_UP;
    writeHeader(to, index, changes.up ? IFF_UP : 0, change);
    if (changes.name !== undefined) to.cstring(IFLA_IFNAME, changes.name);
    if (changes.mtu !== undefined) to.u32(IFLA_MTU, changes.mtu);
    if (changes.namespace !== undefined) to.u32(IFLA_NET_NS_FD, changes.namespace);
  });
}

/** Deletes an interface; a veth's other end goes with it. */
export function deleteLink(link: LinkReference): Message {
  return message("RTM_DELLINK", RTM_DELLINK, 0, (to) => writeReference(to, link));
}

/** Asks for one interface: ENODEV when there is none. */
export function getLink(link: LinkReference): Message {
  return message("RTM_GETLINK", RTM_GETLINK, 0, (to) => {
    writeReference(to, link);
    to.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  });
}

/** Asks for all interfaces of the namespace. */
export function dumpLinks(): Message {
  return message("RTM_GETLINK", RTM_GETLINK, NLM_F_DUMP, (to) => {
    writeHeader(to, 0, 0, 0);
    to.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  });
}

/**
 * Decodes the body of RTM_NEWLINK.
 * @throws WireError
 */
export function decodeLink(body: Uint8Array): Link {
  const header = structOf(body, ifinfomsg.size);
  const attributes = new Attributes(body, ifinfomsg.size);
  const flags = header.getUint32(ifinfomsg.ifi_flags, HOST_ORDER);
  const alternatives = attributes
    .list(IFLA_PROP_LIST)
    .filter(({ type }) => type === IFLA_ALT_IFNAME)
    .map(({ payload }) => decodeCString(payload));
  return defined({
    index: header.getInt32(ifinfomsg.ifi_index, HOST_ORDER),
    name: required(attributes.string(IFLA_IFNAME), "IFLA_IFNAME"),
    alternativeNames: alternatives.length === 0 ? undefined : alternatives,
    up: (flags & IFF_UP) !== 0,
    running: (flags & IFF_RUNNING) !== 0,
    loopback: (flags & IFF_LOOPBACK) !== 0,
    mtu: attributes.u32(IFLA_MTU),
    kind: attributes.nested(IFLA_LINKINFO)?.string(IFLA_INFO_KIND),
    address: attributes.bytes(IFLA_ADDRESS),
    master: attributes.u32(IFLA_MASTER),
    peerIndex: attributes.u32(IFLA_LINK),
    peerNamespaceId: attributes.u32(IFLA_LINK_NETNSID),
  });
}

function writeReference(to: Writer, link: LinkReference): void {
  writeHeader(to, "index" in link ? link.index : 0, 0, 0);
  if ("name" in link) to.cstring(IFLA_IFNAME, link.name);
}

function writeHeader(to: Writer, index: number, flags: number, change: number): void {
  const header = to.struct(ifinfomsg.size);
  header.setInt32(ifinfomsg.ifi_index, index, HOST_ORDER);
  header.setUint32(ifinfomsg.ifi_flags, flags, HOST_ORDER);
  header.setUint32(ifinfomsg.ifi_change, change, HOST_ORDER);
}
