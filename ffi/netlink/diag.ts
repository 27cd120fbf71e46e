/**
 * The sockets of a namespace by sock_diag(7) (linux/sock_diag.h, linux/inet_diag.h). Pure.
 *
 * Decodes only the address and the options of a socket. IP_TRANSPARENT of another
 * process' socket can be seen in no other way (INET_DIAG_SOCKOPT, Linux 5.10).
 */

import { AF_INET, AF_INET6 } from "../constants.ts";
import { NLM_F_DUMP } from "./constants.ts";
import {
  Attributes,
  defined,
  HOST_ORDER,
  type Message,
  message,
  NETWORK_ORDER,
  structOf,
  WireError,
} from "./wire.ts";

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
export const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const INET_DIAG_SKV6ONLY = 11;
const INET_DIAG_MARK = 15;
const INET_DIAG_SOCKOPT = 22;
const TCP_ESTABLISHED = 1;
/** Also the state of every UDP socket that is not connected. */
export const TCP_CLOSE = 7;
export const TCP_LISTEN = 10;

/** `struct inet_diag_req_v2`. */
const inet_diag_req_v2 = { size: 56, sdiag_family: 0, sdiag_protocol: 1, idiag_states: 4 } as const;

/** `struct inet_diag_msg`, with its `struct inet_diag_sockid` at 4. */
const inet_diag_msg = {
  size: 72,
  idiag_family: 0,
  idiag_state: 1,
  idiag_sport: 4,
  idiag_dport: 6,
  idiag_src: 8,
  idiag_dst: 24,
  idiag_if: 40,
  idiag_uid: 64,
  idiag_inode: 68,
} as const;

/** Bits of the first byte of `struct inet_diag_sockopt`. */
const sockopt = { freebind: 1 << 2, transparent: 1 << 5 } as const;

/** A TCP or UDP socket of any process. */
export interface InetSocket {
  /** AF_INET or AF_INET6. */
  readonly family: number;
  /** TCP_*: TCP_LISTEN, … */
  readonly state: number;
  /** 4 or 16 bytes, all 0 for every address. */
  readonly local: Uint8Array;
  readonly localPort: number;
  readonly remote: Uint8Array;
  readonly remotePort: number;
  /** The index of the interface it is bound to (SO_BINDTODEVICE); 0 for none. */
  readonly device: number;
  readonly uid: number;
  /** As /proc/PID/fd shows it: `socket:[inode]`. */
  readonly inode: number;
  /** IPV6_V6ONLY; absent for AF_INET. */
  readonly v6only?: boolean;
  /** SO_MARK; the kernel reports it only with CAP_NET_ADMIN. */
  readonly mark?: number;
  /** IP_TRANSPARENT and IP_FREEBIND; absent if the kernel does not report them. */
  readonly transparent?: boolean;
  readonly freebind?: boolean;
}

/** Asks for the sockets of a family and IPPROTO_TCP or IPPROTO_UDP that are in one of `states`. */
export function dumpSockets(
  family: number,
  protocol: number,
  states: readonly number[] = [TCP_LISTEN, TCP_CLOSE, TCP_ESTABLISHED],
): Message {
  return message("SOCK_DIAG_BY_FAMILY", SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, (to) => {
    const request = to.struct(inet_diag_req_v2.size);
    request.setUint8(inet_diag_req_v2.sdiag_family, family);
    request.setUint8(inet_diag_req_v2.sdiag_protocol, protocol);
    const mask = states.reduce((bits, state) => bits | (1 << state), 0);
    request.setUint32(inet_diag_req_v2.idiag_states, mask, HOST_ORDER);
  });
}

/**
 * Decodes the body of an answer.
 * @throws WireError
 */
export function decodeSocket(body: Uint8Array): InetSocket {
  const view = structOf(body, inet_diag_msg.size);
  const attributes = new Attributes(body, inet_diag_msg.size);
  const family = view.getUint8(inet_diag_msg.idiag_family);
  if (family !== AF_INET && family !== AF_INET6) throw new WireError(`socket of family ${family}`);
  const width = family === AF_INET ? 4 : 16;
  const options = attributes.bytes(INET_DIAG_SOCKOPT)?.[0];
  const only = attributes.u8(INET_DIAG_SKV6ONLY);
  return defined({
    family,
    state: view.getUint8(inet_diag_msg.idiag_state),
    local: body.slice(inet_diag_msg.idiag_src, inet_diag_msg.idiag_src + width),
    localPort: view.getUint16(inet_diag_msg.idiag_sport, NETWORK_ORDER),
    remote: body.slice(inet_diag_msg.idiag_dst, inet_diag_msg.idiag_dst + width),
    remotePort: view.getUint16(inet_diag_msg.idiag_dport, NETWORK_ORDER),
    device: view.getUint32(inet_diag_msg.idiag_if, HOST_ORDER),
    uid: view.getUint32(inet_diag_msg.idiag_uid, HOST_ORDER),
    inode: view.getUint32(inet_diag_msg.idiag_inode, HOST_ORDER),
    v6only: only === undefined ? undefined : only !== 0,
    mark: attributes.u32(INET_DIAG_MARK),
    transparent: options === undefined ? undefined : (options & sockopt.transparent) !== 0,
    freebind: options === undefined ? undefined : (options & sockopt.freebind) !== 0,
  });
}
