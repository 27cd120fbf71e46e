/**
 * What a process knows of the connections that the kernel carries for it, and does for them: their
 * lines in the log, the table at SIGUSR1, upstreams that seem to be dead and their connections.
 *
 * The kernel forgets an expired connection when it comes by, up to a minute later, or when a dump
 * does. The dump of unanswered connections, once a second, sees to that as well.
 */

import { IPPROTO_TCP } from "../../../ffi/constants.ts";
import { SyscallError } from "../../../ffi/errno.ts";
import { type ConntrackEntry, updateEntry } from "../../../ffi/netlink/conntrack.ts";
import { NETLINK_NETFILTER, NFPROTO_IPV4, NFPROTO_IPV6 } from "../../../ffi/netlink/constants.ts";
import { markFilter } from "../../../ffi/netlink/event-filter.ts";
import { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import { IPS_SEEN_REPLY } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { endpointKey, flowMark } from "../../capture/kernel-path/intent.ts";
import type { FlowEndpoint } from "../../capture/plan/flow-rule.ts";
import type { Pool } from "../../config/pool.ts";
import { readSysctl } from "../../diagnose/snapshot/proc.ts";
import { formatBytes } from "../../net/address.ts";
import { Counter } from "../../workers/counters.ts";
import { type End, ended } from "../../workers/end-reason.ts";
import type { ConnectionEvent, WorkerEvent } from "../../workers/protocol.ts";
import type { RowNames } from "../../workers/row-filter.ts";
import { isDown, UpstreamCounter } from "../../workers/upstream-board.ts";
import { FlowLog, type WantedLines } from "./flow-log.ts";
import { FlowRates } from "./flow-rates.ts";
import { type FlowOwner, isOpen, openRow, upstreamKey } from "./flow-rows.ts";
import type { ScannedService } from "./flow-scans.ts";
import type { FlowFigures } from "./flow-sums.ts";
import { deleteFlows, readFlows } from "./flows.ts";
import { type HealthChange, PathHealth } from "./health.ts";
import { shortenedTimeouts } from "./idle-flows.ts";
import { flowsToEnd } from "./lost-upstream.ts";
import type { PathLoad, PathUpstream } from "./path-slots.ts";

export interface WatchSettings {
  /** Of the rows of queries. */
  readonly names: RowNames;
  readonly owner: FlowOwner;
  /** What connections count as of which only the number is known. */
  readonly protocol: "tcp" | "udp";
  readonly pool: Pick<Pool, "balance" | "onDown" | "backOff">;
  readonly print: (events: readonly WorkerEvent[]) => void;
  readonly warn: (text: string) => void;
  /** Upstreams have failed, recovered, or carry other numbers of connections. */
  readonly changed: () => void;
}

/** How often events are read, and how often connections are looked at. */
const pollMs = 100;
const intervalMs = 1000;
/** How often time-outs are looked at, and how many times longer than that takes it rests. */
const sweepMs = 30_000;
const sweepRestFactor = 50;
/** What the kernel may queue of events: half a second of 14,000 connections a second. */
const queueBytes = 32 * 1024 * 1024;
/** A SYN is not answered after this time: its client has sent it again by then. */
const silenceMs = 3000;

/** Kernel settings that count from the next connection on. */
const counting = [
  { name: "net.netfilter.nf_conntrack_acct", lacks: "bytes of connections are not counted" },
  { name: "net.netfilter.nf_conntrack_timestamp", lacks: "ages of connections are not known" },
  { name: "net.netfilter.nf_conntrack_events", lacks: "connections are not logged" },
] as const;

export class FlowWatch implements ScannedService {
  readonly health: PathHealth;
  readonly rates = new FlowRates();
  private readonly settings: WatchSettings;
  /** Not the socket that owns the table: nothing else may wait for these dumps. */
  private readonly channel = NetlinkSocket.open(NETLINK_NETFILTER);
  private readonly log: FlowLog;
  private readonly timers: ReturnType<typeof setInterval>[] = [];
  private upstreams: ReadonlyMap<string, PathUpstream> = new Map();
  private carried: PathLoad | undefined;
  private endedBefore = 0;
  private counted: FlowFigures | undefined;
  private sweptAt = Number.NEGATIVE_INFINITY;
  private countedAt = Number.NEGATIVE_INFINITY;
  /** When each unanswered connection was first noticed. */
  private unanswered: ReadonlyMap<number, number> = new Map();
  /** Upstreams that went down since `endFallen` was called. */
  private fallen: PathUpstream[] = [];

  /** @throws SyscallError */
  constructor(settings: WatchSettings) {
    this.settings = settings;
    const { owner, protocol, pool, print, warn } = settings;
    const { failures, ms, msMax } = pool.backOff;
    this.health = new PathHealth({ failures, backOffMs: ms, backOffMsMax: msMax }, (key) =>
      this.answeredBy(key),
    );
    const options = { queueBytes, instructions: markFilter(flowMark(owner.number)) };
    this.log = new FlowLog({
      ...{ owner, protocol, print, warn },
      open: (group) => NetlinkMonitor.open(NETLINK_NETFILTER, [group], options),
      ended: (entry, { reason }) => {
        if (reason === "connect-failed") this.fails(entry, "refused");
      },
    });
  }

  /** From now on these connections have lines. */
  want(wanted: WantedLines): void {
    this.attempt(() => this.log.want(wanted));
  }

  /** From now on these are the upstreams. `endFallen` follows, once their slots are in force. */
  replace(upstreams: readonly PathUpstream[]): void {
    const before = this.upstreams;
    this.upstreams = new Map(upstreams.map((each) => [endpointKey(each), each]));
    this.health.replace([...this.upstreams.keys()]);
    for (const [key, each] of this.upstreams) {
      const known = before.get(key);
      const wasDown = known === undefined || isDown(known.standing);
      if (isDown(each.standing) && !wasDown) this.fallen.push(each);
    }
  }

  /** Ends connections of upstreams that went down, as the pool wants it. */
  endFallen(): void {
    for (const each of this.fallen.splice(0)) {
      this.attempt(() => this.endFlowsOf(each, ended("down")));
    }
  }

  /** Some upstream's share rises. */
  get isRising(): boolean {
    return [...this.upstreams.values()].some(({ isRising }) => isRising);
  }

  /** What upstreams carry, where that counts for their shares. */
  get load(): PathLoad | undefined {
    return this.carried;
  }

  /** Begins to look. */
  start(): void {
    const { warn } = this.settings;
    for (const { name, lacks } of counting) {
      if (readSysctl(name) === 0) warn(`${name} is 0: ${lacks}; set it to 1`);
    }
    this.timers.push(
      setInterval(() => this.log.poll(Date.now()), pollMs),
      setInterval(() => this.look(), intervalMs),
    );
  }

  /** Logs the open connections. */
  report(): void {
    this.attempt(() => this.settings.print(this.rows()));
  }

  /** What open and ended connections come to; of the last second at least. */
  figures(): FlowFigures {
    const now = performance.now();
    if (this.counted !== undefined && now < this.countedAt + intervalMs) return this.counted;
    this.countedAt = now;
    this.attempt(() => {
      const entries = readFlows(this.channel, { mark: this.mark });
      // Those that have ended since are in the log by now.
      this.log.poll(Date.now());
      this.counted = this.log.sums.figures(entries);
    });
    this.counted ??= this.log.sums.figures([]);
    this.counted.counters[Counter.lostLines] = this.log.lostLines;
    for (const [key, values] of this.counted.upstreams) {
      values[UpstreamCounter.backsOff] = this.health.state(key) === "backing-off" ? 1 : 0;
    }
    return this.counted;
  }

  /** How connections have ended, by the places of `tally.ts`. */
  get tally(): Float64Array {
    return this.log.sums.tally;
  }

  /** Where the counters of an upstream are on the board; undefined: it is none, or nowhere. */
  slotOf(key: string): number | undefined {
    const slot = this.upstreams.get(key)?.slot;
    return slot === undefined || slot < 0 ? undefined : slot;
  }

  get names(): RowNames {
    return this.settings.names;
  }

  get owner(): FlowOwner {
    return this.settings.owner;
  }

  /** Those that are closed, and only remembered, are not among them. @throws SyscallError */
  openFlows(): ConntrackEntry[] {
    return readFlows(this.channel, { mark: this.mark }).filter(isOpen);
  }

  /** What a client sends of TCP after that is reset; of UDP it begins a new session. */
  kill(entries: readonly ConntrackEntry[]): number {
    return this.delete(entries, ended("killed"));
  }

  private rows(): ConnectionEvent[] {
    const now = Date.now();
    return this.openFlows().map((entry) => openRow(entry, this.owner, now));
  }

  /** How many connections of TCP are open. UDP has no end that could be awaited. */
  openStreams(): number {
    let count = 0;
    this.attempt(() => {
      count = this.openFlows().filter(({ original }) => original.protocol === IPPROTO_TCP).length;
    });
    return count;
  }

  /** Ends what is still open: nothing translates it any more. */
  end(): void {
    for (const timer of this.timers.splice(0)) clearInterval(timer);
    this.attempt(() => this.delete(this.openFlows(), ended("stopped")));
    this.log.poll(Date.now());
  }

  /** Ends what is open of UDP alone. */
  endSessions(): void {
    const isSession = ({ original }: ConntrackEntry) => original.protocol !== IPPROTO_TCP;
    this.attempt(() => this.delete(this.openFlows().filter(isSession), ended("stopped")));
  }

  /** Gives the sockets back. */
  close(): void {
    for (const timer of this.timers.splice(0)) clearInterval(timer);
    this.log.close();
    this.channel.close();
  }

  private look(): void {
    this.attempt(() => {
      this.findUnanswered(performance.now());
      this.shortenTimeouts(performance.now());
      const changes = this.health.tick(performance.now());
      const isBalanced = this.settings.pool.balance === "least-connections";
      if (isBalanced) this.carried = this.count();
      if (changes.length > 0 || isBalanced || this.isRising) this.settings.changed();
      for (const change of changes) this.tell(change);
    });
  }

  /** Open connections by upstream; as many are to come as have ended in the last interval. */
  private count(): PathLoad {
    const open = new Map<string, number>();
    for (const entry of this.openFlows()) {
      const key = upstreamKey(entry);
      open.set(key, (open.get(key) ?? 0) + 1);
    }
    const { ends } = this.log.sums;
    const expected = Math.max(2 * this.upstreams.size, ends - this.endedBefore);
    this.endedBefore = ends;
    return { open, expected };
  }

  /** Notes the clients whose SYNs have had no answer for too long. */
  private findUnanswered(now: number): void {
    const status = { value: 0, mask: IPS_SEEN_REPLY };
    const found = readFlows(this.channel, { mark: this.mark, status });
    const before = this.unanswered;
    const after = new Map<number, number>();
    for (const entry of found) {
      if (entry.original.protocol !== IPPROTO_TCP) continue;
      const since = before.get(entry.id) ?? now;
      after.set(entry.id, since);
      if (now - since >= silenceMs) this.fails(entry, "no answer");
    }
    this.unanswered = after;
  }

  /** Connections that came back from the flowtable end when their service wants it. */
  private shortenTimeouts(now: number): void {
    const { timeouts } = this.owner;
    const shortest = 1000 * Math.min(timeouts.tcpIdle, timeouts.tcpHalfClosed);
    if (now - this.sweptAt < Math.min(sweepMs, shortest / 4)) return;
    this.sweptAt = now;
    const status = { value: IPS_SEEN_REPLY, mask: IPS_SEEN_REPLY };
    const answered = readFlows(this.channel, { mark: this.mark, status });
    const kernelSeconds = (name: string) =>
      readSysctl(`net.netfilter.nf_conntrack_tcp_timeout_${name}`);
    const shortened = shortenedTimeouts(answered, timeouts, kernelSeconds);
    this.channel.requestEach(
      shortened.map(({ entry, timeoutS }) => updateEntry(entry, { timeoutS })),
    );
    // A table that takes long to read is read the less often.
    this.sweptAt = now + sweepRestFactor * (performance.now() - now);
  }

  private fails(entry: ConntrackEntry, why: string): void {
    this.health.failed(upstreamKey(entry), entry.original.source, why);
  }

  private tell(change: HealthChange): void {
    const upstream = this.upstreams.get(change.key);
    if (upstream === undefined) return;
    const { warn, pool } = this.settings;
    const name = `upstream ${nameOf(upstream)}`;
    if (change.kind === "recovered") warn(`${name} is back`);
    if (change.kind !== "backs-off") return;
    const { failures } = pool.backOff;
    const seconds = change.ms / 1000;
    warn(`${name} rests for ${seconds} s: ${failures} clients in a row had ${change.why}`);
    // Without another upstream they could only come back to this one.
    const isOther = ([key, { standing, weight }]: readonly [string, PathUpstream]) =>
      key !== change.key && standing === 0 && weight > 0 && this.health.state(key) === "up";
    if (![...this.upstreams].some(isOther)) return;
    this.endFlowsOf(upstream, undefined);
  }

  /** `why` is for those that had an answer; the others begin anew elsewhere, without a line. */
  private endFlowsOf(upstream: PathUpstream, why: End | undefined): void {
    const flows = flowsToEnd(this.flowsOf(upstream), this.settings.pool.onDown);
    const isAnswered = ({ status }: ConntrackEntry) => (status & IPS_SEEN_REPLY) !== 0;
    this.delete(flows.filter(isAnswered), why);
    this.delete(
      flows.filter((each) => !isAnswered(each)),
      undefined,
    );
  }

  /** The ids of connections that an upstream has answered. */
  private answeredBy(key: string): ReadonlySet<number> {
    const upstream = this.upstreams.get(key);
    if (upstream === undefined) return new Set();
    const status = { value: IPS_SEEN_REPLY, mask: IPS_SEEN_REPLY };
    return new Set(this.flowsOf(upstream, { status }).map(({ id }) => id));
  }

  private flowsOf({ address, port }: PathUpstream, more: object = {}): ConntrackEntry[] {
    const family = address.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
    const server = { address: address.bytes, port };
    return readFlows(this.channel, { mark: this.mark, family, server, ...more });
  }

  private get mark() {
    return flowMark(this.owner.number);
  }

  private delete(entries: readonly ConntrackEntry[], why: End | undefined): number {
    this.log.deleting(entries, why);
    return deleteFlows(this.channel, entries);
  }

  /** What the kernel refuses ends nothing: it is told. */
  private attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.settings.warn(`connections of the kernel path cannot be looked at: ${error.message}`);
    }
  }
}

function nameOf({ address, port }: FlowEndpoint): string {
  const text = formatBytes(address.bytes);
  return address.family === 4 ? `${text}:${port}` : `[${text}]:${port}`;
}
