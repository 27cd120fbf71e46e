/**
 * Other programs at our ports. The kernel lets sockets of one user share a port if both have
 * SO_REUSEPORT, as listeners have that sessions join, and nothing keeps a program of the same user
 * out. So it is looked for, at the start and again and again, and told.
 */

import { fstatSync } from "node:fs";
import type { InetSocket } from "../../../ffi/netlink/diag.ts";
import type { Fd } from "../../../ffi/types.ts";
import { boundTo, overlaps } from "../lookup.ts";
import { type Holder, holdersOf, waitingSockets } from "./port-holder.ts";

/** How often they are looked for, and what is unclear is looked at again. */
const intervalMs = 5_000;
const unclearMs = 500;

/** A listener of ours. */
export interface OwnListener {
  readonly fd: Fd;
  readonly protocol: "tcp" | "udp";
  /** Where it is bound. */
  readonly local: { readonly address: Uint8Array; readonly port: number };
}

/** The watched ports, and the callback for each foreign socket. */
export interface JoinedPortsSettings {
  readonly listeners: readonly OwnListener[];
  readonly joined: (text: string) => void;
}

export class JoinedPorts {
  private listeners: readonly OwnListener[];
  private readonly joined: (text: string) => void;
  /** Inodes of our own sockets, and of those already reported. */
  private known: Set<number>;
  /** Inodes of sockets of which no process was found. */
  private unclear = new Set<number>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** `joined` is called with a sentence about each socket of another program. */
  constructor({ listeners, joined }: JoinedPortsSettings) {
    this.listeners = listeners;
    this.joined = joined;
    this.known = new Set(listeners.map(({ fd }) => fstatSync(fd).ino));
  }

  /** Watches the ports of these listeners from now on, instead of the others. */
  replace(listeners: readonly OwnListener[]): void {
    this.listeners = listeners;
    for (const { fd } of listeners) this.known.add(fstatSync(fd).ino);
  }

  /** Looks for them, now and from now on. */
  watch(): void {
    try {
      this.look();
    } catch {
      // Without netlink, or a dump that was cut off: the next one may be whole.
    }
    const pauseMs = this.unclear.size > 0 ? unclearMs : intervalMs;
    this.timer = setTimeout(() => this.watch(), pauseMs);
  }

  /** Ends that. */
  close(): void {
    clearTimeout(this.timer);
  }

  private look(): void {
    const present = new Set<number>();
    const unclear = new Set<number>();
    for (const { protocol, socket } of this.overlapping()) {
      const { inode } = socket;
      present.add(inode);
      if (this.known.has(inode)) continue;
      const holder = holdersOf([inode]).get(inode);
      // Another user's process, or a socket that is closed by now, cannot be identified.
      if (holder === undefined && !this.unclear.has(inode)) unclear.add(inode);
      else {
        this.known.add(inode);
        if (holder?.pid !== process.pid) this.joined(sentence(protocol, socket, holder));
      }
    }
    this.unclear = unclear;
    // Numbers are given to other sockets later.
    const own = this.listeners.map(({ fd }) => fstatSync(fd).ino);
    this.known = new Set([...own, ...[...this.known].filter((inode) => present.has(inode))]);
  }

  private *overlapping() {
    for (const protocol of ["tcp", "udp"] as const) {
      const listeners = this.listeners.filter((each) => each.protocol === protocol);
      if (listeners.length === 0) continue;
      for (const socket of waitingSockets(protocol)) {
        const isOurs = listeners.some(
          ({ local }) =>
            local.port === socket.localPort && overlaps({ local: local.address }, socket),
        );
        if (isOurs) yield { protocol, socket };
      }
    }
  }
}

function sentence(protocol: string, socket: InetSocket, holder: Holder | undefined): string {
  const who = holder === undefined ? "another program" : `${holder.name} (pid ${holder.pid})`;
  const what = protocol === "udp" ? "datagrams" : "connections";
  const hint =
    holder === undefined
      ? `; sudo tproxy doctor --listen ${protocol}://:${socket.localPort} names it`
      : "";
  return (
    `${who} of user ${socket.uid} has joined ${protocol}://${boundTo(socket)} by SO_REUSEPORT: ` +
    `it takes ${what} that are for this proxy${hint}`
  );
}
