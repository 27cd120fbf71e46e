/** A session that never began, for the log. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import { type End, type EndReason, ended } from "../../workers/end-reason.ts";
import type { Recorded } from "../../workers/records.ts";

/** Why a session is rejected: a word for programs, and the rest of a sentence for people. */
export interface Refusal {
  readonly reason: EndReason;
  readonly text: string;
}

/** Those that always have the same text. */
export const refusals = {
  unanswerable: {
    reason: "invalid-address",
    text: "nobody can be answered from a multicast address or port 0",
  },
  manyHosts: { reason: "invalid-address", text: "it would go to many hosts" },
  overloaded: { reason: "overloaded", text: "more datagrams come than can be carried" },
  noUpstream: { reason: "no-upstream", text: "there is no upstream" },
  noPlace: {
    reason: "no-place",
    text: "all places are taken, and its client has as many sessions as any",
  },
  clientRate: { reason: "client-rate", text: "the client begins them faster than it may" },
  clientLimit: { reason: "client-limit", text: "the client has as many as it may have" },
  loop: { reason: "loop", text: "it has come back to this proxy" },
} as const satisfies Record<string, Refusal>;

/** Of datagrams whose session goes on. */
export const expiredText = "a datagram was dropped: its hop limit was used up, as in a loop";

/** One object for all rejected sessions: a flood of them allocates nothing here. */
export class Rejection implements Recorded {
  readonly protocol = "udp";
  readonly upstream = undefined;
  readonly source = "";
  readonly phase = "closed";
  readonly sent = 0;
  readonly received = 0;
  readonly sentDatagrams = 0;
  readonly receivedDatagrams = 0;
  readonly connectMs = -1;
  readonly retries = 0;
  id = 0;
  client: SocketAddress = nobody;
  original: SocketAddress = nobody;
  startedAt = 0;
  lastActive = 0;
  end: End = ended("no-place");

  /** Makes it stand for one that was rejected at `now`. */
  of(
    id: number,
    client: SocketAddress,
    original: SocketAddress,
    { reason, text }: Refusal,
    now: number,
  ): this {
    this.id = id;
    this.client = client;
    this.original = original;
    this.startedAt = now;
    this.lastActive = now;
    this.end = ended(reason, "proxy", undefined, `refused: ${text}`);
    return this;
  }
}

const nobody: SocketAddress = { address: new Uint8Array(4), port: 0, scopeId: 0 };
