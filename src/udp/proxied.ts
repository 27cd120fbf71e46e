/**
 * The sessions of datagrams that come with headers of the PROXY protocol (`--accept-proxy`): each
 * client that a sender's socket names has one of its own. What has no header belongs to the client
 * that its socket has named last, so that a header in front of the first datagram is enough.
 */

import type { ReceiveBatch } from "../../ffi/receive-batch.ts";
import { datagramTlvBytesMax } from "../engine/limits.ts";
import { randomWord } from "../engine/random.ts";
import { readEnds, writeEnds } from "../forward/flow-key.ts";
import type { Cidr } from "../net/cidr.ts";
import { DatagramHeader } from "../proto/proxy-datagram.ts";
import { type PassedOn, plainHeader } from "../proto/proxy-header.ts";
import { AllowedSenders } from "./allowed-senders.ts";
import type { Ingress } from "./ingress.ts";
import { SenderIndex } from "./sender-index.ts";
import type { Session } from "./session.ts";
import type { ClientHeader, SessionKeeper } from "./session-keeper.ts";

const NOT_ALLOWED = "its sender is not allowed to speak for others by the PROXY protocol";
const UNKNOWN = "it has no PROXY protocol header, and its sender has named nobody before";

export class ProxiedSenders implements ClientHeader {
  private readonly keeper: SessionKeeper;
  private readonly arrivals: ReceiveBatch;
  private readonly bytes: Uint8Array;
  private readonly words: Uint32Array;
  private readonly allowed: AllowedSenders;
  private readonly senders: SenderIndex;
  private readonly header = new DatagramHeader();
  /** Where the header begins that was read last. */
  private headerAt = 0;

  /** Of what is in `arrivals`. Headers count of the `allowed` networks' hosts, empty for all. */
  constructor(keeper: SessionKeeper, arrivals: ReceiveBatch, allowed: readonly Cidr[]) {
    this.keeper = keeper;
    this.arrivals = arrivals;
    this.bytes = arrivals.slots.buffer.bytes;
    this.words = arrivals.slots.buffer.words();
    this.allowed = new AllowedSenders(allowed);
    this.senders = new SenderIndex(keeper.settings.sessionsMax, randomWord);
  }

  /**
   * The session of message `index`, of which the header is taken away; undefined: there is nothing
   * to send on. The keeper's `flowKey` has the ends of the datagram.
   */
  sessionOf(ingress: Ingress, index: number): Session | undefined {
    const { keeper, arrivals, header } = this;
    if (!this.allowed.has(keeper.flowKey)) return this.drop(NOT_ALLOWED);
    arrivals.trim(index, 0);
    const from = arrivals.slots.offset(index);
    this.headerAt = from;
    const length = arrivals.length(index);
    switch (header.read(this.bytes, from, from + length)) {
      case "broken":
        return this.drop(`its PROXY protocol header is broken: ${header.error}`);
      case "none": {
        const slot = this.senders.find(keeper.flowKey);
        return slot < 0 ? this.drop(UNKNOWN) : keeper.at(slot);
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
    this.keeper.context.warn(
      `a datagram's PROXY protocol header has more than ${datagramTlvBytesMax} bytes of TLVs: ` +
        "they are not sent on",
    );
    return { ...plainHeader, names: passed.names };
  }

  /** The session that the header names. */
  private named(ingress: Ingress, isAlone: boolean): Session | undefined {
    const { keeper, header } = this;
    const { key } = keeper.table;
    if (header.ends !== undefined) writeEnds(header.ends.source, header.ends.destination, key);
    else if (header.addressBytes === 0) key.set(keeper.flowKey);
    else readEnds(this.words, header.addressesAt / 4, header.addressBytes, key);
    const { begun } = keeper;
    const session = keeper.find(ingress, this);
    if (session === undefined) return;
    this.senders.name(keeper.flowKey, session.start.slot);
    // A header alone at the beginning is no datagram of the client's: some send it ahead.
    if (!(isAlone && keeper.begun > begun)) return session;
  }

  private drop(reason: string): undefined {
    this.keeper.drop(`a datagram was dropped: ${reason}`, 1);
  }
}
