/** The pools of a server: their states, what an administrator asks of them, and their status. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Pool } from "../../config/pool.ts";
import { upstreamSlotsMax } from "../../engine/limits.ts";
import { formatDuration } from "../../net/duration.ts";
import type { Upstreams } from "../../workers/protocol.ts";
import { UpstreamBoard } from "../../workers/upstream-board.ts";
import type { PoolStatus, UpstreamStatus } from "../server/status.ts";
import { CountReports } from "./count-reports.ts";
import { type HandedCounts, type HandedUpstream, readCounts, readHanded } from "./handed.ts";
import { HealthChecks, type HealthOwner } from "./health-checks.ts";
import { type AddressSource, type AdminState, PoolStates, type Standing } from "./pool-states.ts";
import { UpstreamSlots } from "./slots.ts";

/** The change of an upstream that an administrator asks for. */
export interface UpstreamRequest {
  readonly state?: AdminState;
  /** 0 to 256. */
  readonly weight?: number;
  /** Also if it is the last one that takes connections. */
  readonly force?: boolean;
}

/** The result of that. */
export type UpstreamAnswer =
  | { readonly kind: "done"; readonly upstream: UpstreamStatus }
  | { readonly kind: "no-pool" | "no-upstream" }
  /** No other one takes connections. */
  | { readonly kind: "last" };

/** The listener for changes. */
export interface PoolsOwner {
  /** Workers shall look at the board: an upstream of this pool may be down. */
  wake(pool: Pool): void;
  /** The state or the weight of an upstream of this pool has changed. */
  shifted(pool: Pool): void;
  /** A check has found an upstream otherwise, in words and as fields for programs. */
  changed(text: string, fields: Readonly<Record<string, unknown>>): void;
  warn(text: string): void;
}

export class Pools implements HealthOwner {
  readonly board: UpstreamBoard;
  private readonly slots: UpstreamSlots;
  private readonly owner: PoolsOwner;
  /** By name. */
  private readonly states = new Map<string, PoolStates>();
  /** Of another process, as far as it has not been used. */
  private handed: readonly HandedUpstream[];
  private checks: HealthChecks | undefined;
  private reports = new CountReports();

  /** For so many Workers. `handed` is what `handOver` of another process has returned, if any. */
  constructor(workers: number, owner: PoolsOwner, handed?: unknown) {
    this.handed = readHanded(handed);
    this.board = new UpstreamBoard(UpstreamBoard.memory(workers));
    this.slots = new UpstreamSlots(this.board);
    this.owner = owner;
  }

  /** Begins to check what is to be checked, in a Worker with this entry. */
  startChecks(workerEntry: URL): void {
    this.checks = new HealthChecks(workerEntry, this.board.memory, this);
    // Workers count from now on: what was counted before must not be written again.
    this.handed = [];
    this.check();
  }

  /** Checks nothing any more. */
  stopChecks(): void {
    this.checks?.stop();
    this.checks = undefined;
  }

  /**
   * Adds a pool, or takes it over from another configuration with what is known of it. `check`
   * follows, once the marks of all are known.
   */
  put(pool: Pool, source: AddressSource): void {
    const { name } = pool;
    const before = this.states.get(name) ?? this.handed.filter((each) => each.pool === name);
    this.states.set(name, new PoolStates(pool, source, this.slots, before));
  }

  /** The states for a process that takes over. */
  handOver(): HandedUpstream[] {
    this.reports = new CountReports();
    return [...this.states.values()].flatMap((each) => each.handOver());
  }

  /** The counts that have changed since the last call, or since `handOver`. */
  counted(): HandedCounts[] {
    return this.reports.changed(this.all);
  }

  /** Takes over `counted` of the process before this one; undefined: that has ended. */
  inherit(handed: unknown): void {
    if (handed === undefined) return this.board.otherEnded();
    for (const { pool, upstream, address, counters, checks } of readCounts(handed)) {
      const slot = this.states.get(pool)?.slotOf(upstream, address);
      if (slot !== undefined) this.board.inherit(slot, counters, checks);
    }
  }

  /** Removes a pool. Its connections go on. `check` follows. */
  remove(name: string): void {
    this.states.get(name)?.release();
    this.states.delete(name);
  }

  /** Takes over the addresses of a pool, which have changed. Returns what Workers get. */
  refresh({ name }: Pool): Upstreams {
    const states = this.states.get(name) as PoolStates;
    states.refresh();
    this.check();
    return states.upstreams;
  }

  /** The addresses that Workers choose among. */
  upstreamsOf({ name }: Pool): Upstreams {
    return (this.states.get(name) as PoolStates).upstreams;
  }

  /** The standing of an address of an upstream at this moment; undefined: it is not known. */
  standingOf(pool: string, upstream: string, address: SocketAddress): Standing | undefined {
    return this.states.get(pool)?.standingOf(upstream, address, performance.now());
  }

  /** Changes what an administrator wants of an upstream. */
  ask(pool: string, upstream: string, request: UpstreamRequest): UpstreamAnswer {
    const states = this.states.get(pool);
    if (states === undefined) return { kind: "no-pool" };
    if (!states.has(upstream)) return { kind: "no-upstream" };
    const { state, weight, force = false } = request;
    const ends = (state !== undefined && state !== "ready") || weight === 0;
    if (ends && !force && states.isLast(upstream)) return { kind: "last" };
    states.ask(upstream, request);
    this.owner.shifted(states.pool);
    if (state === "down") this.owner.wake(states.pool);
    return { kind: "done", upstream: states.upstreamOf(upstream) };
  }

  /** Checks what is to be checked now, and nothing else. */
  check(): void {
    for (const [name, { left }] of this.states) {
      if (left === 0) continue;
      const most = `all pools together have at most ${upstreamSlotsMax}`;
      this.owner.warn(`pool ${name}: ${left} addresses are left out: ${most}`);
    }
    this.checks?.check([...this.states.values()].flatMap(({ targets }) => targets));
  }

  warn(text: string): void {
    this.owner.warn(text);
  }

  found(slot: number, isUp: boolean, reason: string): void {
    for (const [pool, states] of this.states) {
      const found = states.found(slot, isUp, reason);
      if (found === undefined) continue;
      const { upstream, address, lasted } = found;
      const { taking, size } = states;
      const [from, to] = isUp ? ["down", "up"] : ["up", "down"];
      const time = formatDuration(Math.round(lasted / 1000) * 1000);
      const name =
        upstream === address ? `${pool}/${upstream}` : `${pool}/${upstream} (${address})`;
      const why = isUp ? "" : `: ${reason}`;
      const left = `${taking} of ${size} upstreams ${taking === 1 ? "takes" : "take"} connections`;
      this.owner.changed(`upstream ${name} is ${to}${why}; it was ${from} for ${time}; ${left}`, {
        ...{ pool, upstream, address, from, to },
        ...(isUp ? {} : { reason }),
        ...{ ms: Math.round(lasted), taking },
      });
      this.owner.shifted(states.pool);
      if (!isUp) this.owner.wake(states.pool);
      return;
    }
  }

  /** All pools, in the order in which they came. */
  get all(): PoolStates[] {
    return [...this.states.values()];
  }

  status(): PoolStatus[] {
    return [...this.states.values()].map((each) => each.status());
  }

  /** A Worker has died, and its connections with it. `worker` counts from 0. */
  workerDied(worker: number): void {
    this.board.workerDied(worker);
  }
}
