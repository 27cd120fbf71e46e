/**
 * The socket that all sessions to one destination share for their answers. The kernel walks all
 * sockets of one address and port at each bind(2) there, and for every datagram for which none of
 * them is connected. So there is one for all, and few sessions get their own.
 */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { ownReplySocketsMax } from "../../engine/limits.ts";

export interface Outlet {
  readonly key: string;
  /** Undefined where answers leave through the listener, or as raw packets. */
  fd: Fd | undefined;
  sessions: number;
  /** Sessions that have a socket of their own. */
  owned: number;
}

/** One Worker's outlets, by destination. */
export class Outlets {
  private readonly outlets = new Map<string, Outlet>();

  /** Returns the outlet for one more session to this destination. */
  enter({ address, port, scopeId }: SocketAddress): Outlet {
    const key = `${address.join(".")}:${port}%${scopeId}`;
    let outlet = this.outlets.get(key);
    if (outlet === undefined) {
      outlet = { key, fd: undefined, sessions: 0, owned: 0 };
      this.outlets.set(key, outlet);
    }
    outlet.sessions++;
    return outlet;
  }

  /** One of its sessions has ended; returns the socket to close if that was the last one. */
  leave(outlet: Outlet): Fd | undefined {
    if (--outlet.sessions > 0) return undefined;
    this.outlets.delete(outlet.key);
    return outlet.fd;
  }

  /** Returns whether one more session may have a socket of its own. */
  hasRoom({ owned }: Outlet): boolean {
    return owned < ownReplySocketsMax;
  }
}
