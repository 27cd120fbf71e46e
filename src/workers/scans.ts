/**
 * Queries and kills in a Worker, one after the other: each looks at everything that is open, a part
 * in each turn of the loop, so that traffic goes on. With 100,000 connections that takes 100 turns.
 */

import type { EventLoop } from "../engine/loop.ts";
import { Timer } from "../engine/timers.ts";
import type { Command, WorkerMessage } from "./protocol.ts";
import {
  type KillSelection,
  Largest,
  type RowExtra,
  type RowQuery,
  type WorkerRows,
} from "./query.ts";
import { measure } from "./rates.ts";
import { RecordWriter } from "./records.ts";
import { matches } from "./row-filter.ts";
import {
  killCost,
  queryRowsMax,
  rateStaleMs,
  rateWindowMs,
  returnCost,
  scannedRowsPerTurn,
} from "./scan-limits.ts";
import { type Open, type OpenRows, OpenWalk } from "./table.ts";

export type ScanCommand = Extract<Command, { kind: "query" | "kill" }>;

/** The Worker that is looked at. */
export interface ScanHost {
  readonly loop: Pick<EventLoop, "now" | "defer" | "timers">;
  /** The open connections and sessions of the Worker's services. */
  rows(): readonly OpenRows[];
  /** The id of the newest connection or session. */
  readonly lastId: number;
  post(message: WorkerMessage): void;
}

/** Looks at a row, and may end it; returns what that has cost, in rows. */
type Visit = (row: Open, part: OpenRows) => number;

export class Scans {
  private readonly host: ScanHost;
  private readonly waiting: ScanCommand[] = [];
  private isBusy = false;
  /** The time that the command at hand has taken, in ms. */
  private busyMs = 0;
  /** When the counts of all rows were last looked at. */
  private measuredAt = Number.NEGATIVE_INFINITY;
  private readonly timer = new Timer(() => this.afterPause());
  private afterPause: () => void = () => {};

  constructor(host: ScanHost) {
    this.host = host;
  }

  /** Carries a command out, after those before it. The main thread bounds how many wait. */
  add(command: ScanCommand): void {
    this.waiting.push(command);
    if (!this.isBusy) this.next();
  }

  private next(): void {
    const command = this.waiting.shift();
    this.isBusy = command !== undefined;
    this.busyMs = 0;
    if (command?.kind === "query") this.query(command.request, command.query);
    else if (command?.kind === "kill") this.kill(command.request, command.selection);
  }

  private query(request: number, query: RowQuery): void {
    const { host } = this;
    const isMeasured = host.loop.now - this.measuredAt < rateStaleMs;
    if (!query.rates || isMeasured) return this.select(request, query);
    const look: Visit = (row) => {
      measure(row, host.loop.now);
      return 1;
    };
    this.scan(look, () => {
      this.afterPause = () => this.select(request, query);
      host.loop.timers.arm(this.timer, host.loop.now + rateWindowMs);
    });
  }

  private select(request: number, { filter, sort, limit, rates }: RowQuery): void {
    const { host } = this;
    const { loop } = host;
    // One moment for all, so that rows that are looked at later seem no older. The clock of the
    // Worker has a zero of its own, and rows of several Workers are sorted together.
    const { now } = loop;
    const zero = Date.now() - now;
    const largest = new Largest<Found>(Math.min(limit, queryRowsMax));
    let total = 0;
    let matched = 0;
    const look: Visit = (row, part) => {
      total++;
      const rate = rates ? measure(row, loop.now) : undefined;
      if (!matches(filter, row, part.names, now)) return 1;
      matched++;
      const key = keyOf[sort](row, zero, rate);
      largest.add(key, { row, part, rate });
      return 1;
    };
    this.scan(look, () => {
      if (rates) this.measuredAt = loop.now;
      this.write(largest.items(), ({ records, extras }) => {
        const { busyMs } = this;
        host.post({ kind: "rows", request, rows: { total, matched, busyMs, records, extras } });
        this.next();
      });
    });
  }

  /** Makes records of rows, as far as they are still open. */
  private write(
    found: ReturnType<Largest<Found>["items"]>,
    done: (written: Pick<WorkerRows, "records" | "extras">) => void,
  ): void {
    const { loop } = this.host;
    const writer = new RecordWriter(found.length);
    const extras: RowExtra[] = [];
    const rest = found.values();
    this.inTurns(
      () => {
        const { value } = rest.next();
        if (value === undefined) return 0;
        const { key, item } = value;
        if (item.row.end !== undefined) return 1;
        writer.add("open", item.row, loop.now, Date.now());
        extras.push({ ...item.part.names, key, rate: item.rate });
        return returnCost;
      },
      () => done({ records: writer.take(), extras }),
    );
  }

  private kill(request: number, selection: KillSelection): void {
    const { host } = this;
    const [ids, known] =
      selection.kind === "ids" ? [new Set(selection.ids), new Set(selection.known)] : [];
    const isMeant: (row: Open, part: OpenRows) => boolean =
      selection.kind === "ids"
        ? ({ id, knownAs }) => (knownAs === undefined ? ids?.has(id) : known?.has(knownAs)) === true
        : (row, part) => matches(selection.filter, row, part.names, host.loop.now);
    let ended = 0;
    const look: Visit = (row, part) => {
      if (row.end !== undefined || !isMeant(row, part)) return 1;
      part.kill(row);
      ended++;
      return killCost;
    };
    this.scan(look, () => {
      host.post({ kind: "killed", request, ended });
      this.next();
    });
  }

  /** Calls `visit` for all that is open now, and then `done`, in this turn or a later one. */
  private scan(visit: Visit, done: () => void): void {
    const { host } = this;
    const rest = new OpenWalk(host.rows(), host.lastId);
    this.inTurns(() => {
      const row = rest.next();
      return row === undefined ? 0 : visit(row, rest.part as OpenRows);
    }, done);
  }

  /** Calls `step` until it returns 0, and then `done`. The cost that it returns bounds a turn. */
  private inTurns(step: () => number, done: () => void): void {
    const turn = () => {
      const startedAt = performance.now();
      let cost = 0;
      let last = 1;
      while (last > 0 && cost < scannedRowsPerTurn) {
        last = step();
        cost += last;
      }
      this.busyMs += performance.now() - startedAt;
      if (last === 0) done();
      else this.host.loop.defer(turn);
    };
    turn();
  }
}

interface Found {
  readonly row: Open;
  readonly part: OpenRows;
  readonly rate: RowExtra["rate"];
}

type KeyOf = (row: Open, zero: number, rate: RowExtra["rate"]) => number;

const keyOf: Readonly<Record<RowQuery["sort"], KeyOf>> = {
  rate: (_row, _zero, rate) => (rate === undefined ? 0 : rate.client + rate.upstream),
  bytes: ({ sent, received }) => sent + received,
  age: ({ startedAt }, zero) => -(zero + startedAt),
  idle: ({ lastActive }, zero) => -(zero + lastActive),
};
