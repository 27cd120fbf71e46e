/**
 * Queries and kills as the main thread sees them: sent to all Workers at once, one after the other,
 * and answered when every Worker has.
 */

import { type ConnectionId, formatConnectionId } from "./connection-id.ts";
import type { Command, ConnectionEvent } from "./protocol.ts";
import type { Rate, RowQuery } from "./query.ts";
import type { RowFilter } from "./row-filter.ts";
import { scanAnswerMs, scanRestFactor, scansWaitingMax } from "./scan-limits.ts";

/** An open connection or session. */
export interface OpenRow extends ConnectionEvent {
  readonly service: string;
  readonly pool: string;
  /** Undefined unless the query has asked for it. */
  readonly rate: Rate | undefined;
}

/** The result of a query. */
export interface Rows {
  /** Open connections and sessions, and those of them that match. */
  readonly total: number;
  readonly matched: number;
  /** In the order of the query; at most its limit. */
  readonly rows: readonly OpenRow[];
}

/** The answer of one Worker: rows with their sort keys, or the number of rows that it ended. */
export interface ScanAnswer {
  readonly total: number;
  readonly matched: number;
  /** The time that it has taken the Worker, in ms. */
  readonly busyMs: number;
  readonly rows: readonly { readonly key: number; readonly row: OpenRow }[];
  readonly ended: number;
}

/** The connections and sessions to end. */
export type Selection =
  | { readonly kind: "filter"; readonly filter: RowFilter }
  | { readonly kind: "ids"; readonly ids: readonly ConnectionId[] };

/** A Worker cannot be asked, or does not answer; the message is for people. */
export class ScanError extends Error {}

/** A Worker that can be asked. */
export interface Scanned {
  readonly number: number;
  readonly generation: number;
  send(command: Command): void;
}

const nothing: ScanAnswer = { total: 0, matched: 0, busyMs: 0, rows: [], ended: 0 };

export class ScanRequests<W extends Scanned> {
  private readonly workers: () => readonly W[];
  /** The request at hand: who has to answer it, and what has been answered. */
  private current:
    | { number: number; left: Set<W>; answers: ScanAnswer[]; done: () => void }
    | undefined;
  private requests = 0;
  private turn: Promise<unknown> = Promise.resolve();
  private waiting = 0;

  /** `workers` returns those that run. */
  constructor(workers: () => readonly W[]) {
    this.workers = workers;
  }

  /** Returns rows of what is open. @throws ScanError */
  async query(query: RowQuery): Promise<Rows> {
    const answers = await this.ask((request) => ({ kind: "query", request, query }));
    const rows = answers.flatMap((answer) => answer.rows).sort((a, b) => b.key - a.key);
    return {
      total: sum(answers, "total"),
      matched: sum(answers, "matched"),
      rows: rows.slice(0, query.limit).map(({ row }) => row),
    };
  }

  /** Ends connections and sessions; returns how many. @throws ScanError */
  async kill(selection: Selection): Promise<number> {
    const answers = await this.ask((request, { number, generation }) => {
      if (selection.kind === "filter") return { kind: "kill", request, selection };
      const isOwn = (id: ConnectionId) => id.worker === number && id.generation === generation;
      const ids = selection.ids.filter(isOwn).map(({ sequence }) => sequence);
      // Any Worker may have one that has begun in another process.
      const known = selection.ids.filter((id) => !isOwn(id)).map(formatConnectionId);
      return { kind: "kill", request, selection: { kind: "ids", ids, known } };
    });
    return sum(answers, "ended");
  }

  /** A Worker has answered. */
  answered(worker: W, request: number, answer: Partial<ScanAnswer>): void {
    const { current } = this;
    // One that comes too late is of nobody's request.
    if (current?.number !== request || !current.left.delete(worker)) return;
    current.answers.push({ ...nothing, ...answer });
    if (current.left.size === 0) current.done();
  }

  /** A Worker is gone, and what it had open. */
  gone(worker: W): void {
    if (this.current !== undefined) this.answered(worker, this.current.number, nothing);
  }

  /** Sends a command to each Worker that `make` has one for, once those before it are done. */
  private async ask(make: (request: number, worker: W) => Command | undefined) {
    if (this.waiting >= scansWaitingMax) {
      throw new ScanError(`${scansWaitingMax} other requests for connections wait: try again`);
    }
    this.waiting++;
    const before = this.turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.turn = promise;
    await before;
    this.waiting--;
    let restMs = 0;
    try {
      const answers = await this.send(make);
      restMs = scanRestFactor * Math.max(0, ...answers.map(({ busyMs }) => busyMs));
      return answers;
    } finally {
      setTimeout(resolve, restMs);
    }
  }

  private async send(make: (request: number, worker: W) => Command | undefined) {
    const number = ++this.requests;
    const commands = this.workers().flatMap((worker) => {
      const command = make(number, worker);
      return command === undefined ? [] : [{ worker, command }];
    });
    if (commands.length === 0) return [];
    const { promise, resolve: done } = Promise.withResolvers<void>();
    const left = new Set(commands.map(({ worker }) => worker));
    const current = { number, left, answers: [] as ScanAnswer[], done };
    this.current = current;
    for (const { worker, command } of commands) worker.send(command);
    const deadline = setTimeout(done, scanAnswerMs);
    await promise;
    clearTimeout(deadline);
    this.current = undefined;
    if (left.size === 0) return current.answers;
    const [late] = [...left].map((worker) => worker.number);
    throw new ScanError(`worker ${late} has not answered within ${scanAnswerMs / 1000} s`);
  }
}

function sum(answers: readonly ScanAnswer[], part: "total" | "matched" | "ended"): number {
  return answers.reduce((total, answer) => total + answer[part], 0);
}
