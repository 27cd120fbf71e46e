/** Which socket takes a packet: the look-up of inet_hashtables.c and udp.c, for listeners. Pure. */

import { AF_INET6 } from "../../ffi/constants.ts";
import { type InetSocket, TCP_CLOSE, TCP_LISTEN } from "../../ffi/netlink/diag.ts";
import { type Address, formatBytes } from "../net/address.ts";
import { formatEndpoint } from "../net/endpoint.ts";

/** The key of the look-up: the packet's destination, or where TPROXY hands it to. */
export interface Wanted {
  readonly protocol: "tcp" | "udp";
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly port: number;
  /** The index of the interface it came by. */
  readonly iif: number;
}

/** The sockets of both families that wait for packets to `port`. */
export function waitingOn(
  sockets: readonly InetSocket[],
  protocol: "tcp" | "udp",
  port: number,
): readonly InetSocket[] {
  const state = protocol === "tcp" ? TCP_LISTEN : TCP_CLOSE;
  return sockets.filter((each) => each.state === state && each.localPort === port);
}

/** The socket that gets it: rather one bound to the address, and rather one bound to the device. */
export function findSocket(sockets: readonly InetSocket[], wanted: Wanted): InetSocket | undefined {
  const { address, iif } = wanted;
  return waitingOn(sockets, wanted.protocol, wanted.port)
    .filter(({ device }) => device === 0 || device === iif)
    .filter((socket) => takes(socket, address))
    .toSorted((a, b) => score(b) - score(a))[0];
}

function takes(socket: InetSocket, address: Uint8Array): boolean {
  if (isWildcard(socket)) {
    const isV6 = socket.family === AF_INET6;
    return isV6 ? address.length === 16 || socket.v6only === false : address.length === 4;
  }
  return Buffer.compare(plain(socket.local), plain(address)) === 0;
}

function score(socket: InetSocket): number {
  return (isWildcard(socket) ? 0 : 2) + (socket.device === 0 ? 0 : 1);
}

/** Whether it is bound to every address. */
export function isWildcard({ local }: Pick<InetSocket, "local">): boolean {
  return local.every((byte) => byte === 0);
}

/** An IPv4-mapped address as the IPv4 address it stands for. */
function plain(address: Uint8Array): Uint8Array {
  const isMapped =
    address.length === 16 &&
    address.subarray(0, 10).every((byte) => byte === 0) &&
    address[10] === 0xff &&
    address[11] === 0xff;
  return isMapped ? address.subarray(12) : address;
}

/** Where a socket is bound, as text: `0.0.0.0:80`, `[::]:80`. */
export function boundTo({ local, localPort }: InetSocket): string {
  return endpointText(local, localPort);
}

/** An address of 4 or 16 bytes and a port, as text. */
export function endpointText(bytes: Uint8Array, port: number): string {
  const address: Address = { family: bytes.length === 4 ? 4 : 6, bytes };
  return bytes.length === 4
    ? `${formatBytes(bytes)}:${port}`
    : formatEndpoint({ address, port: port as never });
}

type Bound = Pick<InetSocket, "local" | "v6only">;

/** Whether there are packets that sockets at both addresses would be given, at the same port. */
export function overlaps(one: Bound, other: Bound): boolean {
  if (covers(one, other) || covers(other, one)) return true;
  return Buffer.compare(one.local, other.local) === 0;
}

/** Whether one has every address of a family that the other has an address of. */
function covers(one: Bound, other: Bound): boolean {
  if (!isWildcard(one)) return false;
  if (one.local.length === other.local.length) return true;
  if (one.local.length === 16) return one.v6only !== true;
  return isWildcard(other) && other.v6only !== true;
}
