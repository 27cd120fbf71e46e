/**
 * What the sessions to one destination share for their answers. The kernel walks all sockets of one
 * address and port, at a bind(2) of another one and for every datagram that none of them is
 * connected for: so there is one for all, and few sessions get one of their own.
 */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { ownReplySocketsMax } from "../../engine/limits.ts";

export interface Outlet {
  readonly key: string;
  /** Sends for all of them; undefined where the listener does, or raw packets. */
  fd: Fd | undefined;
  sessions: number;
  /** Sessions that have a socket of their own. */
  owned: number;
}

/** One Worker's outlets, by destination. */
export class Outlets {
  private readonly outlets = new Map<string, Outlet>();

  /** The outlet of one more session to `reached`. */
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

  /** One of its sessions has ended; returns the socket to close when that was the last one. */
  leave(outlet: Outlet): Fd | undefined {
    if (--outlet.sessions > 0) return undefined;
    this.outlets.delete(outlet.key);
    return outlet.fd;
  }

  /** Whether one more session may have a socket of its own. */
  hasRoom({ owned }: Outlet): boolean {
    return owned < ownReplySocketsMax;
  }
}
