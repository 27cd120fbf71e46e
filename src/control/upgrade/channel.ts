/**
 * The two ends of an upgrade: a SOCK_SEQPACKET socketpair between the old and the new process. The
 * main thread's runtime watches no such socket, so it is looked at by a timer: often while
 * something is expected, seldom while the old process drains.
 */

import { AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET } from "../../../ffi/constants.ts";
import {
  describeErrno,
  EAGAIN,
  ECONNRESET,
  EINTR,
  EMSGSIZE,
  ENOBUFS,
  ENOMEM,
  EPIPE,
  ETOOMANYREFS,
  SyscallError,
} from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import {
  descriptorsPerMessage,
  receiveUnix,
  sendUnix,
  unixMessageBytes,
} from "../../../ffi/unix-socket.ts";
import { Assembler, acknowledgement, halvesOf, type Packet, packetsOf } from "./packets.ts";

const bounds = { bytes: unixMessageBytes, descriptors: descriptorsPerMessage };
const busyMs = 2;
const idleMs = 50;
/** Errors of sendmsg(2) that pass: memory is short, or others' descriptors are on their way. */
const passing = [ENOBUFS, ENOMEM, ETOOMANYREFS];
/** Polls without a pause for this long after a packet with descriptors: more of them follow. */
const hurryMs = 20;
/** Packets that are received in one look. */
const packetsPerLook = 64;

/** What happens at a channel. */
export interface ChannelOwner {
  /** A message of the peer; the descriptors are the owner's from here on. */
  message(value: unknown, descriptors: readonly number[]): void;
  /** The peer is gone, or sends what no peer of ours does. Called once, and not after `close`. */
  gone(reason: string): void;
  /** Something cannot be sent for now, and is tried again. Called once for each reason. */
  waits?(reason: string): void;
}

interface Outgoing {
  readonly packet: Packet;
  /** Of a message's last packet: called once that is acknowledged. */
  readonly done: (() => void) | undefined;
}

/** Both ends of a channel; one is for another process. @throws SyscallError */
export function channelEnds(): readonly [own: number, theirs: number] {
  const ends = sys.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC);
  if (typeof ends === "number") throw new SyscallError("socketpair", -ends);
  return ends;
}

export class Channel {
  private readonly fd: number;
  private readonly owner: ChannelOwner;
  private readonly sendPacket: typeof sendUnix;
  private readonly assembler = new Assembler();
  private readonly waiting: Outgoing[] = [];
  private isAwaitingAcknowledgement = false;
  /** Acknowledgements that there was no room for. */
  private owed = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private hurryUntil = Number.NEGATIVE_INFINITY;
  private isOpen = true;
  /** The peer reads nothing any more. */
  private isMute = false;
  /** Nothing more can be sent, for this reason. */
  private broken: string | undefined;
  /** Errors that the owner knows of. */
  private readonly reported = new Set<number>();
  private isBusy = true;

  /** The channel owns `fd` from here on. */
  constructor(fd: number, owner: ChannelOwner, sendPacket: typeof sendUnix = sendUnix) {
    this.fd = fd;
    this.owner = owner;
    this.sendPacket = sendPacket;
    this.schedule();
  }

  /** While nothing is expected soon, the peer is looked at less often. */
  rest(): void {
    this.isBusy = false;
  }

  /**
   * Sends a message with descriptors, which stay open here until `done` is called: the peer has
   * received all of it. Never blocks.
   */
  send(value: unknown, descriptors: readonly number[] = [], done?: () => void): void {
    if (!this.isOpen) return;
    const packets = packetsOf(value, descriptors, bounds);
    for (const [index, packet] of packets.entries()) {
      this.waiting.push({ packet, done: index === packets.length - 1 ? done : undefined });
    }
    this.pump();
    this.schedule();
  }

  /** Before `close`: sends all that waits, as far as there is room, acknowledged or not. */
  flush(): void {
    const isSent = this.isAwaitingAcknowledgement;
    for (const { packet } of this.waiting.slice(isSent ? 1 : 0)) {
      if (!this.isOpen || this.isMute || !this.trySend(packet)) return;
    }
  }

  close(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    clearTimeout(this.timer);
    for (const fd of this.assembler.unclaimed) sys.close(fd);
    sys.close(this.fd);
  }

  private schedule(): void {
    clearTimeout(this.timer);
    if (!this.isOpen) return;
    const isHurried = performance.now() < this.hurryUntil;
    const isBusy = this.isBusy || this.waiting.length > 0;
    this.timer = setTimeout(() => this.look(), isHurried ? 0 : isBusy ? busyMs : idleMs);
  }

  private look(): void {
    for (let count = 0; count < packetsPerLook && this.isOpen && this.receive(); count++);
    if (this.isOpen && this.broken !== undefined) this.fail(this.broken);
    if (this.isOpen) this.pump();
    this.schedule();
  }

  /** Sends the next packet if the last one is acknowledged. */
  private pump(): void {
    while (this.owed > 0 && this.isOpen && !this.isMute) {
      if (!this.trySend(acknowledgement)) return;
      this.owed--;
    }
    const next = this.waiting[0];
    const rests = next === undefined || this.isAwaitingAcknowledgement || !this.isOpen;
    if (rests || this.isMute) return;
    this.isAwaitingAcknowledgement = this.trySend(next.packet);
  }

  /** False where it was not sent: it is tried again, unless the channel is mute. */
  private trySend(packet: Packet): boolean {
    const sent = this.sendPacket(this.fd, packet.bytes, packet.descriptors);
    if (packet.descriptors.length > 0) this.hurryUntil = performance.now() + hurryMs;
    if (sent >= 0) return true;
    switch (-sent) {
      case EAGAIN:
      case EINTR:
        return false;
      case EPIPE:
      case ECONNRESET:
        // The peer may have left messages behind: its end is heard once they are read.
        this.isMute = true;
        return false;
      case EMSGSIZE:
        if (this.halve(packet)) return false;
    }
    const reason = describeErrno(-sent);
    if (!passing.includes(-sent)) {
      this.isMute = true;
      this.broken = `nothing can be sent to it: ${reason}`;
    } else if (!this.reported.has(-sent)) {
      this.reported.add(-sent);
      this.owner.waits?.(`something cannot be sent for now: ${reason}`);
    }
    return false;
  }

  /** Cuts the next packet in two: the send buffer of the socket has no room for it as it is. */
  private halve(packet: Packet): boolean {
    const [next] = this.waiting;
    const halves = next?.packet === packet ? halvesOf(packet) : undefined;
    if (next === undefined || halves === undefined) return false;
    const [first, second] = halves;
    this.waiting.splice(0, 1, { packet: first, done: undefined }, { ...next, packet: second });
    return true;
  }

  /** False where nothing more is there. */
  private receive(): boolean {
    const packet = receiveUnix(this.fd);
    if (packet === -EAGAIN || packet === -EINTR) return false;
    // The peer has ended without reading everything; what it has sent is still there.
    if (packet === -ECONNRESET) return true;
    if (typeof packet === "number") return this.fail(describeErrno(-packet));
    if (packet.bytes.length === 0) return this.fail("it has ended");
    if (packet.descriptors.length > 0) this.hurryUntil = performance.now() + hurryMs;
    const arrived = this.assembler.take(packet);
    if (arrived.kind === "fault") return this.fail(`it has sent ${arrived.reason}`);
    if (arrived.kind === "acknowledgement") {
      this.isAwaitingAcknowledgement = false;
      this.waiting.shift()?.done?.();
      return true;
    }
    this.owed++;
    if (arrived.kind === "message") {
      this.owner.message(arrived.message.value, arrived.message.descriptors);
    }
    this.pump();
    return true;
  }

  private fail(reason: string): false {
    if (!this.isOpen) return false;
    this.close();
    this.owner.gone(reason);
    return false;
  }
}
