/**
 * Ends connections with stalled readers when the kernel's memory for TCP is nearly used up: bytes
 * queued for them slow all connections of the host. A reader has stalled if it has acknowledged
 * none of the queued bytes for some seconds. The memory is read once a second. Connections are
 * examined only while it is short.
 */

import { SO_MEMINFO, SOL_SOCKET } from "../../ffi/constants.ts";
import { allocate } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import {
  stalledBytesMin,
  stalledMs,
  stalledWatchedMax,
  tcpMemoryIntervalMs,
} from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import type { TcpMemory } from "../engine/tcp-memory.ts";
import { Timer } from "../engine/timers.ts";
import { chooseStalled, type Stalled } from "./stall-choice.ts";

/** Bytes on their way from one socket to another, or to the same. */
export interface Flow {
  readonly from: { readonly fd: number };
  readonly to: { readonly fd: number };
  /** How many bytes were passed to the second one. */
  readonly bytes: number;
}

/** The owner of the watched connections. */
export interface StallOwner<T> {
  readonly open: Iterable<T>;
  flowsOf(member: T): readonly Flow[];
  /** The client of a connection, as a number. */
  clientOf(member: T): number;
  /** Ends a connection and counts that. */
  endStalled(member: T): void;
}

interface Seen {
  readonly acknowledged: number;
  readonly since: number;
}

/** SO_MEMINFO: bytes that wait to be read, and bytes that wait to be acknowledged. */
const memory = allocate(9 * 4);
const memoryWords = memory.words();
const SK_MEMINFO_RMEM_ALLOC = 0;
const SK_MEMINFO_WMEM_QUEUED = 5;

export class StallWatch<T> {
  private readonly loop: EventLoop;
  private readonly tcpMemory: TcpMemory;
  private readonly owner: StallOwner<T>;
  private readonly timer = new Timer(() => this.fired());
  /** For each flow with queued bytes: how many its reader had acknowledged, and since when. */
  private seen = new Map<Flow, Seen>();

  constructor(loop: EventLoop, tcpMemory: TcpMemory, owner: StallOwner<T>) {
    this.loop = loop;
    this.tcpMemory = tcpMemory;
    this.owner = owner;
  }

  /** There is a connection to watch. */
  begin(): void {
    if (this.timer.slot < 0) this.arm();
  }

  stop(): void {
    this.loop.timers.disarm(this.timer);
  }

  private arm(): void {
    this.loop.timers.arm(this.timer, this.loop.now + tcpMemoryIntervalMs);
  }

  private fired(): void {
    const { now } = this.loop;
    if (this.tcpMemory.isShort(now)) this.look(now);
    else this.seen.clear();
    for (const _ of this.owner.open) return this.arm();
  }

  private look(now: number): void {
    const stalled = this.stalledAt(now);
    const { excess } = this.tcpMemory;
    if (excess === 0) return;
    for (const { member } of chooseStalled(stalled, excess)) this.owner.endStalled(member);
  }

  /** The members with a stalled flow that holds enough bytes: one system call for most flows. */
  private stalledAt(now: number): (Stalled & { member: T })[] {
    const { owner } = this;
    const stalled: (Stalled & { member: T })[] = [];
    const seen = new Map<Flow, Seen>();
    for (const member of owner.open) {
      if (seen.size >= stalledWatchedMax) break;
      const held = this.heldSince(owner.flowsOf(member), now, seen);
      if (held !== undefined) stalled.push({ member, client: owner.clientOf(member), ...held });
    }
    this.seen = seen;
    return stalled;
  }

  private heldSince(
    flows: readonly Flow[],
    now: number,
    seen: Map<Flow, Seen>,
  ): { held: number; since: number } | undefined {
    for (const flow of flows) {
      if (flow.bytes < stalledBytesMin) continue;
      const acknowledged = flow.bytes - Math.max(0, sys.unacknowledged(flow.to.fd));
      if (acknowledged === flow.bytes) continue;
      const before = this.seen.get(flow);
      const since = before?.acknowledged === acknowledged ? before.since : now;
      seen.set(flow, { acknowledged, since });
      if (now - since < stalledMs) continue;
      const held = heldBytes(flow);
      if (held >= stalledBytesMin) return { held, since };
    }
    return undefined;
  }
}

/** Bytes of a flow in the kernel's socket queues. */
function heldBytes({ from, to }: Flow): number {
  return queued(from.fd, SK_MEMINFO_RMEM_ALLOC) + queued(to.fd, SK_MEMINFO_WMEM_QUEUED);
}

function queued(fd: number, which: number): number {
  const { address, size } = memory;
  const result = sys.getsockoptBytes(fd, SOL_SOCKET, SO_MEMINFO, address, size);
  return result < 0 ? 0 : (memoryWords[which] as number);
}
