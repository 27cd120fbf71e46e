/**
 * What carries the datagrams of sessions: one set of buffers for all of a Worker. They are sent
 * from where they were received, so that only their lengths pass through here.
 */

import { allocate } from "../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../ffi/receive-batch.ts";
import { SendBatch } from "../../ffi/send-batch.ts";
import { batchDatagrams } from "../engine/limits.ts";
import { encodeProxyV2 } from "../proto/proxy-protocol-v2.ts";
import type { RawSender } from "./raw-sender.ts";
import type { Session } from "./session.ts";

/** A header of version 2 with two IPv6 addresses has 52 bytes. */
const HEADER_BYTES = 64;

export class Carrier {
  readonly slots = new PayloadSlots(batchDatagrams);
  /** What the listeners receive. */
  readonly arrivals = new ReceiveBatch(this.slots, true);
  /** What the connected sockets of sessions receive, into the same memory. */
  readonly flows = new ReceiveBatch(this.slots, false);
  /** What became of the last sending. One more than is received: the first may be parted in two. */
  readonly sending = new SendBatch(batchDatagrams + 1);
  private readonly header = allocate(HEADER_BYTES);

  /** Sends on the messages of the listener's batch from `head` on, in the order of `after`. */
  chainToUpstream(session: Session, head: number, after: Int32Array): void {
    const { arrivals, sending } = this;
    sending.begin(undefined, session.maySegmentOut);
    for (let i = head; i >= 0; i = after[i] as number) this.add(session, arrivals, i);
    this.sendToUpstream(session);
  }

  /** Sends on the `count` messages that the client's own socket received. */
  flowToUpstream(session: Session, count: number): void {
    const { flows, sending } = this;
    sending.begin(undefined, session.maySegmentOut);
    for (let i = 0; i < count; i++) this.add(session, flows, i);
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

  /** The same as raw packets, one for each datagram: 0, or the errno of one that was refused. */
  flowByRaw(session: Session, count: number, raw: RawSender): number {
    const { flows, slots } = this;
    const { reached, peer } = session.start;
    let failed = 0;
    for (let i = 0; i < count; i++) {
      const length = flows.length(i);
      const segment = flows.segment(i) || Math.max(length, 1);
      let done = 0;
      do {
        const size = Math.min(segment, length - done);
        const result = raw.send(reached, peer, slots.buffer, slots.offset(i) + done, size);
        if (result < 0) failed = -result;
        else {
          session.receivedDatagrams++;
          session.received += size;
        }
        done += size;
      } while (done < length);
    }
    return failed;
  }

  private add(session: Session, batch: ReceiveBatch, index: number): void {
    const { sending } = this;
    const address = batch.address(index);
    const length = batch.length(index);
    const segment = batch.segment(index);
    if (!session.isHeaderDue) return sending.add(address, length, segment);
    session.isHeaderDue = false;
    const first = segment > 0 && segment < length ? segment : length;
    const size = this.encodeHeader(session);
    sending.addWithHeader(this.header.address, size, address, first);
    if (first < length) sending.add(address + first, length - first, segment);
  }

  /** The header of the PROXY protocol that says who the client is; its length. */
  private encodeHeader(session: Session): number {
    const { client, original } = session.start;
    const bytes = encodeProxyV2(client, original, "udp");
    this.header.bytes.set(bytes);
    return bytes.length;
  }

  private sendToUpstream(session: Session): void {
    const { sending } = this;
    sending.send(session.start.upstreamFd);
    session.sentDatagrams += sending.sent;
    session.sent += sending.sentBytes;
    if (sending.isSegmentRefused) session.maySegmentOut = false;
  }
}
