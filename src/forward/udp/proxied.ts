/**
 * Finds the sessions of datagrams with headers of the PROXY protocol (`--accept-proxy`): each
 * client that a sender's socket names has a session of its own. A datagram without a header belongs
 * to the client that its socket has named last. So a header in front of the first one is enough.
 */

import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { readEnds, writeEnds } from "../../engine/flow-key.ts";
import { datagramTlvBytesMax } from "../../engine/limits.ts";
import { randomWord } from "../../engine/random.ts";
import type { Cidr } from "../../net/cidr.ts";
import { DatagramHeader } from "../../proto/proxy-datagram.ts";
import { type PassedOn, plainHeader } from "../../proto/proxy-header.ts";
import type { DropReason } from "../../workers/tally.ts";
import { AllowedSenders } from "./allowed-senders.ts";
import type { UdpListener } from "./listener.ts";
import { SenderIndex } from "./sender-index.ts";
import type { Session } from "./session.ts";
import type { SessionManager } from "./session-manager.ts";

const NOT_ALLOWED = "its sender is not allowed to speak for others by the PROXY protocol";
const UNKNOWN = "it has no PROXY protocol header, and its sender has named nobody before";

export class ProxiedSenders {
  private readonly manager: SessionManager;
  private readonly arrivals: ReceiveBatch;
  private readonly bytes: Uint8Array;
  private readonly words: Uint32Array;
  private readonly allowed: AllowedSenders;
  private readonly senders: SenderIndex;
  private readonly header = new DatagramHeader();
  private readonly passedOn = () => this.passed();
  /** Where the last header begins. */
  private headerAt = 0;

  /** Reads headers in `arrivals` from hosts of the `allowed` networks; empty allows all. */
  constructor(manager: SessionManager, arrivals: ReceiveBatch, allowed: readonly Cidr[]) {
    this.manager = manager;
    this.arrivals = arrivals;
    this.bytes = arrivals.slots.buffer.bytes;
    this.words = arrivals.slots.buffer.words();
    this.allowed = new AllowedSenders(allowed);
    this.senders = new SenderIndex(manager.settings.sessionsMax, randomWord);
  }

  /**
   * Returns the session of message `index` and removes the header from the message; undefined:
   * there is nothing to forward. The manager's `flowKey` holds the ends of the datagram.
   */
  sessionOf(listener: UdpListener, index: number): Session | undefined {
    const { manager, arrivals, header } = this;
    if (!this.allowed.has(manager.flowKey)) return this.drop("proxy-sender", NOT_ALLOWED);
    arrivals.trim(index, 0);
    const from = arrivals.slots.offset(index);
    this.headerAt = from;
    const length = arrivals.length(index);
    switch (header.read(this.bytes, from, from + length)) {
      case "broken":
        return this.drop("proxy-header", `its PROXY protocol header is broken: ${header.error}`);
      case "none": {
        const slot = this.senders.find(manager.flowKey);
        return slot < 0 ? this.drop("proxy-sender", UNKNOWN) : manager.at(slot);
      }
      case "header":
        arrivals.trim(index, header.length);
        return this.named(listener, header.length === length);
    }
  }

  /** A session has ended. */
  ended({ start: { slot } }: Session): void {
    this.senders.end(slot);
  }

  /** Returns the session that the last header names, begun if there is none. */
  private named(listener: UdpListener, isAlone: boolean): Session | undefined {
    const { manager, header } = this;
    const { key } = manager.table;
    if (header.ends !== undefined) writeEnds(header.ends.source, header.ends.destination, key);
    else if (header.addressBytes === 0) key.set(manager.flowKey);
    else readEnds(this.words, header.addressesAt / 4, header.addressBytes, key);
    const slot = manager.table.find();
    const session = slot < 0 ? manager.begin(listener, this.passedOn) : manager.at(slot);
    if (session === undefined) return undefined;
    this.senders.name(manager.flowKey, session.start.slot);
    // Some senders put a header ahead by itself: this is no datagram of the client's.
    return slot < 0 && isAlone ? undefined : session;
  }

  /** The part of the last header that the upstream gets. */
  private passed(): PassedOn {
    const passed = this.header.passed(this.bytes, this.headerAt);
    if (passed.tlvs.length <= datagramTlvBytesMax) return passed;
    this.manager.context.warn(
      `a datagram's PROXY protocol header has more than ${datagramTlvBytesMax} bytes of TLVs: ` +
        "they are not sent on",
    );
    return { ...plainHeader, names: passed.names };
  }

  private drop(reason: DropReason, text: string): undefined {
    this.manager.drop(reason, `a datagram was dropped: ${text}`, 1);
  }
}
