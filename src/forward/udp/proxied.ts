/**
 * The sessions of datagrams that come with headers of the PROXY protocol (`--accept-proxy`): each
 * client that a sender's socket names has one of its own. What has no header belongs to the client
 * that its socket has named last, so that a header in front of the first datagram is enough.
 */

import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { readEnds, writeEnds } from "../../engine/flow-key.ts";
import { datagramTlvBytesMax } from "../../engine/limits.ts";
import { randomWord } from "../../engine/random.ts";
import type { Cidr } from "../../net/cidr.ts";
import { DatagramHeader } from "../../proto/proxy-datagram.ts";
import { type PassedOn, plainHeader } from "../../proto/proxy-header.ts";
import { AllowedSenders } from "./allowed-senders.ts";
import type { UdpListener } from "./listener.ts";
import { SenderIndex } from "./sender-index.ts";
import type { Session } from "./session.ts";
import type { ClientHeader, SessionManager } from "./session-manager.ts";

const NOT_ALLOWED = "its sender is not allowed to speak for others by the PROXY protocol";
const UNKNOWN = "it has no PROXY protocol header, and its sender has named nobody before";

export class ProxiedSenders implements ClientHeader {
  private readonly manager: SessionManager;
  private readonly arrivals: ReceiveBatch;
  private readonly bytes: Uint8Array;
  private readonly words: Uint32Array;
  private readonly allowed: AllowedSenders;
  private readonly senders: SenderIndex;
  private readonly header = new DatagramHeader();
  /** Where the header begins that was read last. */
  private headerAt = 0;

  /** Of what is in `arrivals`. Headers count of the `allowed` networks' hosts, empty for all. */
  constructor(manager: SessionManager, arrivals: ReceiveBatch, allowed: readonly Cidr[]) {
    this.manager = manager;
    this.arrivals = arrivals;
    this.bytes = arrivals.slots.buffer.bytes;
    this.words = arrivals.slots.buffer.words();
    this.allowed = new AllowedSenders(allowed);
    this.senders = new SenderIndex(manager.settings.sessionsMax, randomWord);
  }

  /**
   * The session of message `index`, of which the header is taken away; undefined: there is nothing
   * to send on. The manager's `flowKey` has the ends of the datagram.
   */
  sessionOf(ingress: UdpListener, index: number): Session | undefined {
    const { manager, arrivals, header } = this;
    if (!this.allowed.has(manager.flowKey)) return this.drop(NOT_ALLOWED);
    arrivals.trim(index, 0);
    const from = arrivals.slots.offset(index);
    this.headerAt = from;
    const length = arrivals.length(index);
    switch (header.read(this.bytes, from, from + length)) {
      case "broken":
        return this.drop(`its PROXY protocol header is broken: ${header.error}`);
      case "none": {
        const slot = this.senders.find(manager.flowKey);
        return slot < 0 ? this.drop(UNKNOWN) : manager.at(slot);
      }
      case "header":
        arrivals.trim(index, header.length);
        return this.named(ingress, header.length === length);
    }
  }

  /** A session has ended. */
  ended({ start: { slot } }: Session): void {
    this.senders.end(slot);
  }

  /** Of the header that was read last. */
  passed(): PassedOn {
    const passed = this.header.passed(this.bytes, this.headerAt);
    if (passed.tlvs.length <= datagramTlvBytesMax) return passed;
    this.manager.context.warn(
      `a datagram's PROXY protocol header has more than ${datagramTlvBytesMax} bytes of TLVs: ` +
        "they are not sent on",
    );
    return { ...plainHeader, names: passed.names };
  }

  /** The session that the header names. */
  private named(ingress: UdpListener, isAlone: boolean): Session | undefined {
    const { manager, header } = this;
    const { key } = manager.table;
    if (header.ends !== undefined) writeEnds(header.ends.source, header.ends.destination, key);
    else if (header.addressBytes === 0) key.set(manager.flowKey);
    else readEnds(this.words, header.addressesAt / 4, header.addressBytes, key);
    const { begun } = manager;
    const session = manager.find(ingress, this);
    if (session === undefined) return;
    this.senders.name(manager.flowKey, session.start.slot);
    // A header alone at the beginning is no datagram of the client's: some send it ahead.
    if (!(isAlone && manager.begun > begun)) return session;
  }

  private drop(reason: string): undefined {
    this.manager.drop(`a datagram was dropped: ${reason}`, 1);
  }
}
