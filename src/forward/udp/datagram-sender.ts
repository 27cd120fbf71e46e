/**
 * What carries the datagrams of sessions: one set of buffers for all of a Worker. They are sent
 * from where they were received, so that only their lengths pass through here.
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
  /** What the listeners receive. */
  readonly arrivals = new ReceiveBatch(this.slots, true);
  /** What the connected sockets of sessions receive, into the same memory. */
  readonly flows = new ReceiveBatch(this.slots, false);
  /** What a new socket of a session receives, which may be of others; in memory of its own. */
  readonly strays = new ReceiveBatch(new PayloadSlots(strayDatagrams), true);
  /** What became of the last sending. */
  readonly sending = new SendBatch(batchDatagrams);
  /** Datagrams of the last sending to an upstream that had no hop left. */
  expired = 0;
  private readonly headsEvery: boolean;
  private readonly header = allocate(HEADER_BYTES);

  /** `headsEvery`: the PROXY protocol goes in front of every datagram to an upstream. */
  constructor(headsEvery: boolean) {
    this.headsEvery = headsEvery;
  }

  /** Sends on the messages of `batch` from `head` on, in the order of `after`. */
  chainToUpstream(session: Session, batch: ReceiveBatch, head: number, after: Int32Array): void {
    this.beginUpstream(session);
    for (let i = head; i >= 0; i = after[i] as number) this.addMessage(session, batch, i);
    this.sendToUpstream(session);
  }

  /** Sends on the `count` messages that the client's own socket received. */
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

  /** The same as raw packets, one for each datagram. */
  flowByRaw(session: Session, count: number, raw: RawSender): void {
    const { flows, slots, sending } = this;
    const { reached, peer } = session.start;
    sending.begin(undefined, false);
    for (let i = 0; i < count; i++) {
      const length = flows.length(i);
      const segment = flows.segment(i) || Math.max(length, 1);
      let done = 0;
      do {
        const size = Math.min(segment, length - done);
        sending.tally(raw.send(reached, peer, slots.buffer, slots.offset(i) + done, size));
        done += size;
      } while (done < length);
    }
    session.receivedDatagrams += sending.sent;
    session.received += sending.sentBytes;
  }

  /** How many datagrams the `count` messages are that the upstream's socket received. */
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

  /** One less than it came with, as a router does: so a loop of proxies ends. */
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

  /** By itself, since the next one has the header if this one cannot be sent. */
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
