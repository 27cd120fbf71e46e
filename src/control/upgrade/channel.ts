/**
 * The two ends of an upgrade: a SOCK_SEQPACKET socketpair between the old and the new process. The
 * main thread's runtime watches no such socket, so it is looked at by a timer: often while
 * something is expected, seldom while the old process drains.
 */

import { AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET } from "../../../ffi/constants.ts";
import { describeErrno, EAGAIN, ECONNRESET, EINTR, SyscallError } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import {
  descriptorsPerMessage,
  receiveUnix,
  sendUnix,
  unixMessageBytes,
} from "../../../ffi/unix-socket.ts";
import { Assembler, acknowledgement, type Packet, packetsOf } from "./packets.ts";

const bounds = { bytes: unixMessageBytes, descriptors: descriptorsPerMessage };
const busyMs = 2;
const idleMs = 50;
/** Packets that are received in one look. */
const packetsPerLook = 64;

/** What happens at a channel. */
export interface ChannelOwner {
  /** A message of the peer; the descriptors are the owner's from here on. */
  message(value: unknown, descriptors: readonly number[]): void;
  /** The peer is gone, or sends what no peer of ours does. Called once, and not after `close`. */
  gone(reason: string): void;
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
  private readonly assembler = new Assembler();
  private readonly waiting: Outgoing[] = [];
  private isAwaitingAcknowledgement = false;
  /** Acknowledgements that there was no room for. */
  private owed = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private isOpen = true;
  /** The peer reads nothing any more. */
  private isMute = false;
  private isBusy = true;

  /** The channel owns `fd` from here on. */
  constructor(fd: number, owner: ChannelOwner) {
    this.fd = fd;
    this.owner = owner;
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
    const isBusy = this.isBusy || this.waiting.length > 0;
    this.timer = setTimeout(() => this.look(), isBusy ? busyMs : idleMs);
  }

  private look(): void {
    for (let count = 0; count < packetsPerLook && this.isOpen && this.receive(); count++);
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

  private trySend({ bytes, descriptors }: Packet): boolean {
    const sent = sendUnix(this.fd, bytes, descriptors);
    if (sent >= 0) return true;
    // The peer may have left messages behind: its end is heard once they are read.
    if (sent !== -EAGAIN && sent !== -EINTR) this.isMute = true;
    return false;
  }

  /** False where nothing more is there. */
  private receive(): boolean {
    const packet = receiveUnix(this.fd);
    if (packet === -EAGAIN || packet === -EINTR) return false;
    // The peer has ended without reading everything; what it has sent is still there.
    if (packet === -ECONNRESET) return true;
    if (typeof packet === "number") return this.fail(describeErrno(-packet));
    if (packet.bytes.length === 0) return this.fail("it has ended");
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
