/**
 * Logs and counts connections of the kernel path as the kernel forgets them.
 *
 * Nothing is kept for each open connection: an event of an ended one has all that the log has.
 * Events that the kernel had to drop are counted.
 */

import { SyscallError } from "../../../ffi/errno.ts";
import {
  type ConntrackEntry,
  type ConntrackEvent,
  decodeConntrackEvent,
} from "../../../ffi/netlink/conntrack.ts";
import type { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import { type End, isUsual } from "../../workers/end-reason.ts";
import { type ConnectionEvent, LogLevel } from "../../workers/protocol.ts";
import { TALLY_VALUES, Tally } from "../../workers/tally.ts";
import { acceptedRow, endedRow, type FlowOwner } from "./flow-rows.ts";

/** A service of the kernel path, as its log sees it. */
export interface LoggedService extends FlowOwner {
  /** Of `LogLevel`. */
  readonly level: number;
}

export interface FlowLogSettings {
  /** In the groups that `groupsOf` names. */
  readonly monitor: Pick<NetlinkMonitor, "read" | "overruns">;
  /** Whose connections have this mark; undefined: nobody's. */
  readonly ownerOf: (mark: number) => LoggedService | undefined;
  readonly print: (events: readonly ConnectionEvent[]) => void;
  readonly warn: (text: string) => void;
  /** Called for every connection that has ended, whether it is logged or not. */
  readonly ended: (entry: ConntrackEntry, end: End) => void;
}

/** What ended connections of a service have carried, and how they ended. */
export interface FlowTotals {
  readonly ended: number;
  readonly failed: number;
  readonly clientBytes: number;
  readonly upstreamBytes: number;
  /** By the places of `tally.ts`. */
  readonly tally: Float64Array;
}

interface Counting {
  ended: number;
  failed: number;
  clientBytes: number;
  upstreamBytes: number;
  readonly tallied: Tally;
  readonly tally: Float64Array;
}

/** Deleted entries whose events have not come yet; beyond that the oldest are forgotten. */
const deletedMax = 100_000;

export class FlowLog {
  private readonly settings: FlowLogSettings;
  private readonly byNumber = new Map<number, Counting>();
  /** Why entries were deleted, by their id. */
  private readonly deleted = new Map<number, End | undefined>();
  private overruns = 0;
  private undecodable = 0;

  constructor(settings: FlowLogSettings) {
    this.settings = settings;
  }

  /** How often events were lost, so that lines and counts are missing. */
  get lostEvents(): number {
    return this.overruns;
  }

  /**
   * These connections are about to be deleted. That is why they end; undefined: they go on as
   * others, and have no line.
   */
  deleting(entries: readonly ConntrackEntry[], end: End | undefined): void {
    for (const { id } of entries) this.deleted.set(id, end);
    for (const id of this.deleted.keys()) {
      if (this.deleted.size <= deletedMax) break;
      this.deleted.delete(id);
    }
  }

  /** Logs what has happened; `now` in ms since 1970. */
  poll(now: number): void {
    const { monitor, print, warn } = this.settings;
    const events: ConnectionEvent[] = [];
    for (const message of monitor.read()) {
      const event = this.decode(() => decodeConntrackEvent(message));
      const row = event && this.row(event, now);
      if (row !== undefined) events.push(row);
    }
    if (events.length > 0) print(events);
    if (monitor.overruns === this.overruns) return;
    this.overruns = monitor.overruns;
    // Which of them were deleted by us is no longer certain to be heard of.
    this.deleted.clear();
    warn("the kernel had no room for events of connections: lines of the log are missing");
  }

  /** What the ended connections of a service amount to. */
  totals(number: number): FlowTotals {
    const { tallied: _, ...totals } = this.counting(number);
    return totals;
  }

  private row({ kind, entry }: ConntrackEvent, now: number): ConnectionEvent | undefined {
    const owner = this.settings.ownerOf(entry.mark);
    if (owner === undefined) return undefined;
    if (kind === "new") {
      return owner.level >= LogLevel.debug ? acceptedRow(entry, owner, now) : undefined;
    }
    if (kind !== "destroy") return undefined;
    const by = this.deleted.get(entry.id);
    const isMoved = this.deleted.delete(entry.id) && by === undefined;
    if (isMoved) return undefined;
    const row = endedRow(entry, owner, now, by);
    const end = row.end as End;
    this.count(row, owner);
    if (by === undefined) this.settings.ended(entry, end);
    const wanted = isUsual(end, row.protocol) ? LogLevel.info : LogLevel.warning;
    return owner.level >= wanted ? row : undefined;
  }

  private count(row: ConnectionEvent, { number }: FlowOwner): void {
    const counting = this.counting(number);
    const { protocol, ms } = row;
    const end = row.end as End;
    counting.ended++;
    counting.clientBytes += row.clientBytes;
    counting.upstreamBytes += row.upstreamBytes;
    if (!isUsual(end, protocol)) counting.failed++;
    counting.tallied.ended(protocol, end.by, end.reason);
    if (protocol === "tcp") counting.tallied.lasted(ms);
  }

  private counting(number: number): Counting {
    const known = this.byNumber.get(number);
    if (known !== undefined) return known;
    const tally = new Float64Array(TALLY_VALUES);
    const counting = {
      ...{ ended: 0, failed: 0, clientBytes: 0, upstreamBytes: 0 },
      ...{ tally, tallied: new Tally(tally) },
    };
    this.byNumber.set(number, counting);
    return counting;
  }

  /** What cannot be decoded ends no log. */
  private decode<T>(make: () => T): T | undefined {
    try {
      return make();
    } catch (error) {
      if (error instanceof SyscallError) throw error;
      this.undecodable++;
      if (this.undecodable === 1) {
        this.settings.warn(`an event of connection tracking cannot be read: ${error}`);
      }
      return undefined;
    }
  }
}
