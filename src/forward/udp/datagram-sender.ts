/**
 * Sends the datagrams of sessions, both ways. A Worker has one set of buffers. Datagrams leave from
 * the memory that they were received into: only their lengths pass through here.
 */

import { allocate } from "../../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { SendBatch } from "../../../ffi/send-batch.ts";
import type { Address } from "../../../ffi/types.ts";
import { batchDatagrams, datagramTlvBytesMax, strayDatagrams } from "../../engine/limits.ts";
import type { RawSender } from "../../engine/raw-sender.ts";
import { familyOf } from "../../engine/sockets.ts";
import { setHopLimit } from "../../engine/transparent.ts";
import type { Session } from "./session.ts";

/** A header of version 2 has 52 bytes with two IPv6 addresses, and 7 more for a checksum. */
const HEADER_BYTES = 64 + datagramTlvBytesMax;

export class DatagramSender {
  readonly slots = new PayloadSlots(batchDatagrams);
  /** Received by the listeners. All its messages are forwarded before another one reads. */
  readonly arrivals = new ReceiveBatch(this.slots, true);
  /** Received by the connected sockets of sessions, into the same memory. */
  readonly flows = new ReceiveBatch(this.slots, false);
  /** Received by a new socket of a session, also from other clients; in memory of its own. */
  readonly strays = new ReceiveBatch(new PayloadSlots(strayDatagrams), true);
  /** The last sending and its result. */
  readonly sending = new SendBatch(batchDatagrams);
  /** Datagrams of the last sending to an upstream that had no hop left. */
  expired = 0;
  /** The PROXY protocol goes in front of every datagram to an upstream. */
  headsEvery = false;
  private readonly header = allocate(HEADER_BYTES);

  /** Sends the message `first` of `batch`, and each one that `next` puts behind it. */
  chainToUpstream(session: Session, batch: ReceiveBatch, first: number, next: Int32Array): void {
    this.beginUpstream(session);
    for (let i = first; i >= 0; i = next[i] as number) this.addMessage(session, batch, i);
    this.sendToUpstream(session);
  }

  /** Sends the `count` messages that the client's own socket received. */
  flowToUpstream(session: Session, count: number): void {
    this.beginUpstream(session);
    for (let i = 0; i < count; i++) this.addMessage(session, this.flows, i);
    this.sendToUpstream(session);
  }

  /** Sends the `count` messages that the upstream's socket received to the client, by `fd`. */
  flowToClient(session: Session, count: number, fd: number): void {
    const { flows, sending } = this;
    sending.begin(session.envelope, session.maySegmentIn);
    for (let i = 0; i < count; i++) {
      sending.add(flows.address(i), flows.length(i), flows.segment(i));
    }
    sending.send(fd);
    session.receivedDatagrams += sending.sent;
    session.received += sending.sentBytes;
    if (sending.isSegmentRefused) session.maySegmentIn = false;
  }

  /** Sends the same messages as raw packets, one for each datagram. */
  flowByRaw(session: Session, count: number, raw: RawSender): void {
    const { flows, slots, sending } = this;
    const { destination, sender } = session.start;
    sending.begin(undefined, false);
    for (let i = 0; i < count; i++) {
      const length = flows.length(i);
      const segment = flows.segment(i) || Math.max(length, 1);
      let done = 0;
      do {
        const size = Math.min(segment, length - done);
        sending.tally(raw.send(destination, sender, slots.buffer, slots.offset(i) + done, size));
        done += size;
      } while (done < length);
    }
    session.receivedDatagrams += sending.sent;
    session.received += sending.sentBytes;
  }

  /** Returns how many datagrams are in the `count` messages that the upstream's socket received. */
  datagrams(count: number): number {
    let total = 0;
    for (let i = 0; i < count; i++) {
      total += Math.max(1, Math.ceil(this.flows.length(i) / (this.flows.segment(i) || 65_536)));
    }
    return total;
  }

  private beginUpstream(session: Session): void {
    this.expired = 0;
    this.sending.begin(undefined, session.maySegmentOut);
    if (session.header !== undefined) this.header.bytes.set(session.header);
  }

  private addMessage(session: Session, batch: ReceiveBatch, index: number): void {
    const hops = batch.hopLimit(index);
    if (hops === 1) {
      this.expired++;
      return;
    }
    if (hops > 1 && hops - 1 !== session.hopLimit) this.lowerHopLimit(session, hops - 1);
    this.add(session, batch.address(index), batch.length(index), batch.segment(index));
  }

  /** Lowers the hop limit by one, as a router does: so a loop of proxies ends. */
  private lowerHopLimit(session: Session, hops: number): void {
    this.sending.send(session.start.upstreamFd);
    this.sending.clear();
    setHopLimit(session.start.upstreamFd, familyOf(session.upstream), hops);
    session.hopLimit = hops;
  }

  private add(session: Session, address: Address, length: number, segment: number): void {
    const { sending } = this;
    if (session.header === undefined) return sending.add(address, length, segment);
    const first = segment > 0 && segment < length ? segment : length;
    sending.addWithHeader(this.header.address, session.header.length, address, first);
    if (!this.headsEvery) this.sendFirst(session);
    if (first < length) this.add(session, address + first, length - first, segment);
  }

  /** Sends one datagram by itself: if that fails, the next one gets the header. */
  private sendFirst(session: Session): void {
    const { sending } = this;
    sending.send(session.start.upstreamFd);
    sending.clear();
    if (sending.sent > 0) session.header = undefined;
  }

  private sendToUpstream(session: Session): void {
    const { sending } = this;
    sending.send(session.start.upstreamFd);
    session.sentDatagrams += sending.sent;
    session.sent += sending.sentBytes;
    if (sending.isSegmentRefused) session.maySegmentOut = false;
  }
}
