/**
 * What a service of the kernel path counts, and each of its upstreams: ended connections are added
 * up as they end, and those that connection tracking still has are added for each look. Pure.
 */

import { IPPROTO_UDP } from "../../../ffi/constants.ts";
import type { ConntrackEntry } from "../../../ffi/netlink/conntrack.ts";
import { IPS_SEEN_REPLY } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { COUNTER_VALUES, Counter, gauges } from "../../workers/counters.ts";
import { type End, isUsual } from "../../workers/end-reason.ts";
import type { ConnectionEvent } from "../../workers/protocol.ts";
import { TALLY_VALUES, Tally } from "../../workers/tally.ts";
import { UPSTREAM_COUNTER_VALUES, UpstreamCounter } from "../../workers/upstream-board.ts";
import { amountsOf, isOpen, upstreamKey } from "./flow-rows.ts";

/** What has been counted up to now. */
export interface FlowFigures {
  /** By `Counter`. */
  readonly counters: Float64Array;
  /** By `upstreamKey`, and there by `UpstreamCounter`. */
  readonly upstreams: ReadonlyMap<string, Float64Array>;
}

export class FlowSums {
  /** How connections have ended, by the places of `tally.ts`. */
  readonly tally = new Float64Array(TALLY_VALUES);
  private readonly tallied = new Tally(this.tally);
  private readonly ended = new Float64Array(COUNTER_VALUES);
  private readonly endedBy = new Map<string, Float64Array>();
  /** The last figures: what has been counted once does not become less. */
  private before = new Float64Array(COUNTER_VALUES);

  /** How many have ended. */
  get ends(): number {
    const { ended } = this;
    return (ended[Counter.accepted] as number) + (ended[Counter.sessions] as number);
  }

  /** A connection or session has ended. */
  add(entry: ConntrackEntry, { protocol, ms }: ConnectionEvent, end: End): void {
    const upstream = this.upstreamOf(entry);
    addEntry(entry, this.ended, upstream);
    this.tallied.ended(protocol, end.by, end.reason);
    const isFailed = !isUsual(end, protocol);
    if (protocol === "udp") {
      if (end.reason === "idle-timeout") plus(this.ended, Counter.expiredSessions);
      if ((entry.status & IPS_SEEN_REPLY) === 0) plus(this.ended, Counter.unansweredSessions);
      if (isFailed) plus(this.ended, Counter.failedSessions);
      return;
    }
    this.tallied.lasted(ms);
    if (isFailed) plus(this.ended, Counter.failed);
    if (end.reason === "connect-failed") this.failed(upstream, UpstreamCounter.refused);
    if (end.reason === "connect-timeout") this.failed(upstream, UpstreamCounter.timeout);
  }

  /** A connection without an answer was deleted, so that its client gets another upstream. */
  moved(entry: ConntrackEntry): void {
    if (entry.original.protocol === IPPROTO_UDP) return;
    const upstream = this.upstreamOf(entry);
    plus(upstream, UpstreamCounter.connects);
    this.failed(upstream, UpstreamCounter.timeout);
  }

  /** So many have ended of which nothing else is known. */
  lose(count: number, protocol: "tcp" | "udp"): void {
    plus(this.ended, protocol === "tcp" ? Counter.accepted : Counter.sessions, count);
  }

  /** The figures with what connection tracking has at this moment. */
  figures(entries: readonly ConntrackEntry[]): FlowFigures {
    const counters = this.ended.slice();
    const upstreams = new Map([...this.endedBy].map(([key, values]) => [key, values.slice()]));
    for (const entry of entries) {
      const key = upstreamKey(entry);
      const upstream = upstreams.get(key) ?? new Float64Array(UPSTREAM_COUNTER_VALUES);
      upstreams.set(key, upstream);
      addEntry(entry, counters, upstream);
      if (!isOpen(entry)) continue;
      const isUdp = entry.original.protocol === IPPROTO_UDP;
      plus(counters, isUdp ? Counter.activeSessions : Counter.active);
      plus(upstream, isUdp ? UpstreamCounter.openSessions : UpstreamCounter.open);
    }
    for (const [at, value] of this.before.entries()) {
      if (!gaugePlaces.has(at)) counters[at] = Math.max(value, counters[at] as number);
    }
    this.before = counters;
    return { counters, upstreams };
  }

  private failed(upstream: Float64Array, counter: number): void {
    plus(upstream, counter);
    plus(this.ended, Counter.upstreamFailures);
  }

  private upstreamOf(entry: ConntrackEntry): Float64Array {
    const key = upstreamKey(entry);
    const known = this.endedBy.get(key);
    if (known !== undefined) return known;
    const values = new Float64Array(UPSTREAM_COUNTER_VALUES);
    this.endedBy.set(key, values);
    return values;
  }
}

const gaugePlaces: ReadonlySet<number> = new Set(gauges.map((name) => Counter[name]));

/** Adds a connection, and what it has carried. */
function addEntry(entry: ConntrackEntry, counters: Float64Array, upstream: Float64Array): void {
  const { client, upstream: received } = amountsOf(entry);
  plus(counters, Counter.clientBytes, client);
  plus(counters, Counter.upstreamBytes, received);
  plus(upstream, UpstreamCounter.clientBytes, client);
  plus(upstream, UpstreamCounter.upstreamBytes, received);
  if (entry.original.protocol !== IPPROTO_UDP) {
    plus(counters, Counter.accepted);
    return plus(upstream, UpstreamCounter.connects);
  }
  plus(counters, Counter.sessions);
  plus(upstream, UpstreamCounter.sessions);
  const [sent, back] = [entry.sent?.packets ?? 0, entry.received?.packets ?? 0];
  plus(counters, Counter.clientDatagrams, sent);
  plus(counters, Counter.upstreamDatagrams, back);
  plus(counters, Counter.datagrams, sent + back);
}

function plus(values: Float64Array, at: number, amount = 1): void {
  values[at] = (values[at] as number) + amount;
}
