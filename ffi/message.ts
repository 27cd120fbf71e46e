/**
 * `struct msghdr` with one iovec, one address and control messages: what `recvmsg(2)` and
 * `sendmsg(2)` need for datagrams whose original destination matters.
 */

import { decodeOriginalDestination, encodePacketInfo, packetInfoBytesMax } from "./cmsg.ts";
import { AF_INET } from "./constants.ts";
import { iovec, msghdr, sockaddr_storage } from "./layout.ts";
import { allocate, type NativeBuffer } from "./memory.ts";
import { decodeSockaddr, encodeSockaddr, mapped, type SocketAddress } from "./sockaddr.ts";
import type { Address } from "./types.ts";

/** Room for the control messages of one datagram: what the kernel tells, or a source of ours. */
const CONTROL_BYTES = Math.max(256, packetInfoBytesMax);
const NAME_BYTES = sockaddr_storage.size;

/** One reusable message: header, iovec, peer address and control in native memory. */
export class Message {
  readonly payload: NativeBuffer;
  private readonly header: NativeBuffer;
  private readonly name: NativeBuffer;
  private readonly control: NativeBuffer;

  /** A message over `payload`, which the caller may read and write between calls. */
  constructor(payload: NativeBuffer) {
    this.payload = payload;
    this.header = allocate(msghdr.size + iovec.size);
    this.name = allocate(NAME_BYTES);
    this.control = allocate(CONTROL_BYTES);
    const view = this.header.view;
    view.setBigUint64(msghdr.msg_iov, BigInt(this.header.address + msghdr.size), true);
    view.setBigUint64(msghdr.msg_iovlen, 1n, true);
    view.setBigUint64(msghdr.size + iovec.iov_base, BigInt(payload.address), true);
  }

  /** The address of the `struct msghdr`. */
  get address(): Address {
    return this.header.address;
  }

  /** Makes the whole payload, an address and control room ready for `recvmsg`. */
  prepareReceive(): void {
    const view = this.header.view;
    view.setBigUint64(msghdr.msg_name, BigInt(this.name.address), true);
    view.setUint32(msghdr.msg_namelen, NAME_BYTES, true);
    view.setUint32(msghdr.size + iovec.iov_len, this.payload.size, true);
    view.setBigUint64(msghdr.msg_control, BigInt(this.control.address), true);
    view.setUint32(msghdr.msg_controllen, CONTROL_BYTES, true);
    view.setUint32(msghdr.msg_flags, 0, true);
  }

  /** Who sent the received datagram. */
  sender(): SocketAddress | undefined {
    return decodeSockaddr(this.name.view, 0);
  }

  /** The MSG_* flags of the received datagram (MSG_TRUNC, MSG_CTRUNC, MSG_ERRQUEUE). */
  flags(): number {
    return this.header.view.getUint32(msghdr.msg_flags, true);
  }

  /** Where the sender meant the received datagram to go; undefined if the kernel did not say. */
  originalDestination(): SocketAddress | undefined {
    const length = this.header.view.getUint32(msghdr.msg_controllen, true);
    return decodeOriginalDestination(this.control.view, length);
  }

  /**
   * Makes the first `length` bytes of the payload ready to be sent to `to`, from the address
   * `source` if one is given (IP_PKTINFO, IPV6_PKTINFO: a transparent socket may name any).
   * `domain` is the socket's family: an AF_INET6 one takes IPv4 addresses in mapped form.
   */
  prepareSend(domain: number, length: number, to: SocketAddress, source?: Uint8Array): void {
    const view = this.header.view;
    const target = domain === AF_INET ? to.address : mapped(to.address);
    const nameLength = encodeSockaddr(this.name.view, 0, target, to.port, to.scopeId);
    view.setBigUint64(msghdr.msg_name, BigInt(this.name.address), true);
    view.setUint32(msghdr.msg_namelen, nameLength, true);
    view.setUint32(msghdr.size + iovec.iov_len, length, true);
    const controlLength =
      source === undefined ? 0 : encodePacketInfo(this.control.view, source, to.scopeId);
    view.setBigUint64(msghdr.msg_control, BigInt(controlLength && this.control.address), true);
    view.setUint32(msghdr.msg_controllen, controlLength, true);
    view.setUint32(msghdr.msg_flags, 0, true);
  }
}
