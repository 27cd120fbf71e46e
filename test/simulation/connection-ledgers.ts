/** Books about what connections take and have to give back: picks of a pool, and flows. */

import { isUpstreamsFault } from "../../src/forward/connect-errors.ts";
import type { Upstream } from "../../src/forward/upstream.ts";
import { UpstreamPool } from "../../src/forward/upstream-pool.ts";
import type { PooledAddress, PoolRules } from "../../src/workers/protocol.ts";
import { makeBoard } from "../helpers/upstreams.ts";
import type { Attempt, SimulatedConnectionKernel } from "./connection-kernel.ts";

const silentListener = { fails() {}, backsOff() {}, backsOffFor() {}, recovered() {} };

/** A pool that is told exactly one outcome for each pick, the true one, and once. */
export class AuditedPool extends UpstreamPool {
  private readonly kernel: SimulatedConnectionKernel;
  private readonly picks = new Map<number, Upstream>();
  private readonly all = new Set<Upstream>();
  /** The last failure that it was told. */
  private told: Attempt | undefined;

  constructor(
    rules: PoolRules,
    addresses: readonly PooledAddress[],
    kernel: SimulatedConnectionKernel,
  ) {
    super(rules, addresses, makeBoard(), silentListener);
    this.kernel = kernel;
  }

  /** Picks that the pool has not been told the end of. */
  get outstanding(): number {
    let active = 0;
    for (const upstream of this.all) active += Math.abs(upstream.active);
    return Math.max(active, this.picks.size);
  }

  override pick(
    client: Uint8Array,
    family: number,
    id: number,
    tried: readonly Upstream[],
    now: number,
  ): Upstream | undefined {
    if (this.picks.has(id)) throw new Error(`connection ${id} picks twice`);
    const picked = super.pick(client, family, id, tried, now);
    if (picked === undefined) return undefined;
    if (tried.includes(picked)) throw new Error("an upstream is tried twice");
    if (tried.length >= 3) throw new Error("a fourth attempt");
    this.picks.set(id, picked);
    this.all.add(picked);
    return picked;
  }

  override connected(upstream: Upstream, client: Uint8Array, now: number): void {
    if (![...this.picks.values()].includes(upstream)) throw new Error("connected without a pick");
    super.connected(upstream, client, now);
  }

  override failed(
    upstream: Upstream,
    id: number,
    now: number,
    reason: string,
    client: Uint8Array | undefined,
  ): void {
    this.settle(upstream, id);
    const { failure, socket } = this.kernel.lastAttempt;
    const isSilent = socket?.state !== "connected" && now - (socket?.openedAt ?? now) >= 1_000;
    const isTheirs =
      failure === undefined ? socket?.isToldRefusal || isSilent : isUpstreamsFault(failure);
    this.told = this.kernel.lastAttempt;
    if (!isTheirs) throw new Error(`${reason} is told as the upstream's fault`);
    super.failed(upstream, id, now, reason, client);
  }

  override closed(upstream: Upstream, id: number): void {
    this.settle(upstream, id);
    const { failure, socket } = this.kernel.lastAttempt;
    const isTheirs = failure === undefined ? socket?.isToldRefusal : isUpstreamsFault(failure);
    if (isTheirs && !this.isTold) throw new Error("the pool does not hear that an upstream failed");
    super.closed(upstream, id);
  }

  /** Whether it has been told of the last attempt: attempts are told at once. */
  private get isTold(): boolean {
    return this.told === this.kernel.lastAttempt;
  }

  /** A connection that is frozen, or of another process, goes on as `id`. */
  resumed(upstream: Upstream, id: number): void {
    this.picks.set(id, upstream);
  }

  private settle(upstream: Upstream, id: number): void {
    if (this.picks.get(id) !== upstream) throw new Error(`connection ${id} has no such pick`);
    this.picks.delete(id);
  }
}

/** The flows that are entered, each of which is forgotten once. */
export class FlowLedger {
  private readonly handles = new Set<number>();
  private next = 1;

  get size(): number {
    return this.handles.size;
  }

  enter(_fd: number): number {
    this.handles.add(this.next);
    return this.next++;
  }

  forget(handle: number): void {
    if (!this.handles.delete(handle)) throw new Error(`flow ${handle} is forgotten twice`);
  }
}
