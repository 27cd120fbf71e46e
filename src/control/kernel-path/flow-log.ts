/**
 * Logs and counts connections of a service of the kernel path as the kernel forgets them.
 *
 * Nothing is kept for each open connection: an event of an ended one has all that the log has. The
 * kernel counts the events that it had to drop: as many connections have ended, without a line.
 */

import { SyscallError } from "../../../ffi/errno.ts";
import {
  type ConntrackEntry,
  type ConntrackEvent,
  decodeConntrackEvent,
} from "../../../ffi/netlink/conntrack.ts";
import {
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
} from "../../../ffi/netlink/conntrack-constants.ts";
import type { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import { flowMarkMask } from "../../capture/kernel-path/intent.ts";
import { type End, isUsual } from "../../workers/end-reason.ts";
import { type ConnectionEvent, type ConnectionLog, LogLevel } from "../../workers/protocol.ts";
import { acceptedRow, endedRow, type FlowOwner } from "./flow-rows.ts";
import { FlowSums } from "./flow-sums.ts";

/** A listener to events, and how many of the events that it has lost are counted. */
interface Listener {
  readonly monitor: Pick<NetlinkMonitor, "read" | "lost" | "close">;
  lost: number;
}

export interface FlowLogSettings {
  readonly owner: FlowOwner;
  /** What connections count as of which only the number is known. */
  readonly protocol: "tcp" | "udp";
  /** Opens a listener to one group of events, of this service's connections alone. */
  readonly open: (group: number) => Listener["monitor"];
  readonly print: (events: readonly ConnectionEvent[]) => void;
  readonly warn: (text: string) => void;
  /** Called for every connection that has ended by itself, whether it is logged or not. */
  readonly ended: (entry: ConntrackEntry, end: End) => void;
}

/** Which connections have lines. */
export interface WantedLines extends ConnectionLog {
  /** The counters are wanted too, and they need an event of each connection that has ended. */
  readonly counts: boolean;
}

/** Deleted entries whose events have not come yet; beyond that the oldest are forgotten. */
const deletedMax = 100_000;

export class FlowLog {
  /** What ended connections have carried, and how they ended. */
  readonly sums = new FlowSums();
  private readonly settings: FlowLogSettings;
  private wanted: WantedLines = {
    level: LogLevel.error,
    connections: "none",
    sample: 1,
    counts: false,
  };
  private begun: Listener | undefined;
  private gone: Listener | undefined;
  /** Why entries were deleted, by their id. */
  private readonly deleted = new Map<number, End | undefined>();
  /** Events that the kernel has dropped. */
  private lost = 0;
  private usual = 0;
  private undecodable = 0;

  constructor(settings: FlowLogSettings) {
    this.settings = settings;
  }

  /** How many lines are missing because the kernel has dropped the events. */
  get lostLines(): number {
    return this.lost;
  }

  /**
   * From now on these have lines. The kernel makes an event of what is wanted alone: each costs it
   * some 7 µs. @throws SyscallError
   */
  want(wanted: WantedLines): void {
    // What has ended before has a line if that was wanted then.
    this.poll(Date.now());
    this.wanted = wanted;
    const { level, connections, counts } = wanted;
    const hasLines = level >= LogLevel.warning && connections !== "none";
    const hasBegun = hasLines && level >= LogLevel.debug && connections === "all";
    this.gone = this.listen(this.gone, hasLines || counts, NFNLGRP_CONNTRACK_DESTROY);
    this.begun = this.listen(this.begun, hasBegun, NFNLGRP_CONNTRACK_NEW);
  }

  /** Events are lost from now on. A second time it does nothing. */
  close(): void {
    for (const each of [this.begun, this.gone]) each?.monitor.close();
    this.begun = undefined;
    this.gone = undefined;
  }

  /**
   * These connections are about to be deleted. That is why they end; undefined: they go on as
   * others, and have no line.
   */
  deleting(entries: readonly ConntrackEntry[], end: End | undefined): void {
    if (this.gone === undefined) return;
    for (const { id } of entries) this.deleted.set(id, end);
    for (const id of this.deleted.keys()) {
      if (this.deleted.size <= deletedMax) break;
      this.deleted.delete(id);
    }
  }

  /** Logs what has happened; `now` in ms since 1970. */
  poll(now: number): void {
    // What has ended was queued after it began: so its beginning is read later, and logged first.
    const gone = this.gone?.monitor.read() ?? [];
    const messages = [...(this.begun?.monitor.read() ?? []), ...gone];
    const events = messages.flatMap((message) => {
      const event = this.decode(() => decodeConntrackEvent(message));
      return (event && this.row(event, now)) ?? [];
    });
    if (events.length > 0) this.settings.print(events);
    this.countLost();
  }

  private listen(known: Listener | undefined, isWanted: boolean, group: number) {
    if (isWanted) return known ?? { monitor: this.settings.open(group), lost: 0 };
    known?.monitor.close();
    return undefined;
  }

  /**
   * All that is queued was read, so what was deleted and is not among it was lost as well. What is
   * open is looked up whenever it is asked for, and needs nothing.
   */
  private countLost(): void {
    const ends = newlyLost(this.gone);
    const lines = ends + newlyLost(this.begun);
    if (lines === 0) return;
    const { deleted, sums, settings } = this;
    // Those that went on elsewhere have no line.
    const moved = [...deleted.values()].filter((end) => end === undefined).length;
    deleted.clear();
    sums.lose(Math.max(0, ends - moved), settings.protocol);
    this.lost += Math.max(0, lines - moved);
    settings.warn(
      "the kernel had no room for events of connections: lines of the log are missing, and bytes " +
        "of those connections",
    );
  }

  private row({ kind, entry }: ConntrackEvent, now: number): ConnectionEvent | undefined {
    const { owner } = this.settings;
    if ((entry.mark & flowMarkMask) >>> 24 !== owner.number) return undefined;
    if (kind === "new") return acceptedRow(entry, owner, now);
    if (kind !== "destroy") return undefined;
    const by = this.deleted.get(entry.id);
    const isMoved = this.deleted.delete(entry.id) && by === undefined;
    if (isMoved) {
      this.sums.moved(entry);
      return undefined;
    }
    const row = endedRow(entry, owner, now, by);
    const end = row.end as End;
    this.sums.add(entry, row, end);
    if (by === undefined) this.settings.ended(entry, end);
    return this.isWanted(isUsual(end, row.protocol)) ? row : undefined;
  }

  private isWanted(isUsual: boolean): boolean {
    const { level, connections, sample } = this.wanted;
    if (connections === "none" || level < LogLevel.warning) return false;
    if (!isUsual) return true;
    if (connections === "failed" || level < LogLevel.info) return false;
    return level >= LogLevel.debug || this.usual++ % sample === 0;
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

/** How many events a listener has lost since it was last asked. */
function newlyLost(listener: Listener | undefined): number {
  if (listener === undefined) return 0;
  const { lost } = listener.monitor;
  const more = lost - listener.lost;
  listener.lost = lost;
  return more;
}
