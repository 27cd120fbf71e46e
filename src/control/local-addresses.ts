/**
 * The addresses of this host, also those that come later: as the kernel has them (RTM_GETADDR),
 * whether their interfaces are up or not. Its announcements are read without waiting, since Bun's
 * loop cannot watch a descriptor, and are an occasion to ask for all of them again.
 */

import { EAFNOSUPPORT, SyscallError } from "../../ffi/errno.ts";
import { decodeAddress, dumpAddresses } from "../../ffi/netlink/address.ts";
import {
  NETLINK_ROUTE,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV6_IFADDR,
} from "../../ffi/netlink/constants.ts";
import { NetlinkMonitor } from "../../ffi/netlink/monitor.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";
import { CommandError } from "../errors.ts";

const tickMs = 200;

export class OwnAddresses {
  /** 4 or 16 bytes each, network order. */
  addresses: readonly Uint8Array[];
  private readonly monitor: NetlinkMonitor;
  private timer: ReturnType<typeof setInterval> | undefined;
  /** Something has changed that could not be asked about yet. */
  private unseen = false;

  private constructor(monitor: NetlinkMonitor) {
    this.monitor = monitor;
    this.addresses = readAddresses();
  }

  /** Those of the thread's current network namespace. @throws SyscallError, NetlinkError */
  static open(): OwnAddresses {
    const monitor = NetlinkMonitor.open(NETLINK_ROUTE, [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR]);
    try {
      return new OwnAddresses(monitor);
    } catch (error) {
      monitor.close();
      throw error;
    }
  }

  /** Calls `changed` within a fifth of a second of a change. */
  watch(changed: (addresses: readonly Uint8Array[]) => void): void {
    this.timer = setInterval(() => this.look(changed), tickMs);
  }

  /** Ends that. */
  close(): void {
    clearInterval(this.timer);
    this.monitor.close();
  }

  private look(changed: (addresses: readonly Uint8Array[]) => void): void {
    const heard = this.monitor.drain();
    if (!heard && !this.unseen) return;
    this.unseen = true;
    try {
      this.addresses = readAddresses();
    } catch {
      // A dump that was cut off by yet another change: asked again with the next tick.
      return;
    }
    this.unseen = false;
    changed(this.addresses);
  }
}

/** The addresses of this host. @throws CommandError, as in a sandbox without netlink */
export function openOwnAddresses(): OwnAddresses {
  try {
    return OwnAddresses.open();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const repair =
      error.errno === EAFNOSUPPORT
        ? ": in a service, RestrictAddressFamilies= needs AF_NETLINK"
        : "";
    throw new CommandError(`Cannot read the addresses of this host: ${error.message}${repair}`);
  }
}

function readAddresses(): Uint8Array[] {
  const socket = NetlinkSocket.open(NETLINK_ROUTE);
  try {
    return socket.dump(dumpAddresses(), decodeAddress).map(({ address }) => address);
  } finally {
    socket.close();
  }
}
