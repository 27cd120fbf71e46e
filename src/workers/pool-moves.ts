/** What moves between the Workers of two processes, as the main thread asks for it. */

import * as sys from "../../ffi/sys.ts";
import type { Scheme } from "../net/target.ts";
import { formatConnectionId, type IdOrigin } from "./connection-id.ts";
import type { Adopted, FrozenRows, MoveAnswer } from "./moved.ts";
import type { Command } from "./protocol.ts";

/** A Worker that can be asked. */
interface Mover extends IdOrigin {
  readonly number: number;
  readonly hasEnded: boolean;
  send(command: Command): void;
}

/** What has become of what a Worker was to take over. */
export interface Adoption {
  /** The places of what it has refused. */
  readonly refused: readonly number[];
  /** Has it go on with the others: the old process has closed them. */
  begin(): void;
}

const nothing: Adoption = { refused: [], begin: () => {} };

function descriptorsAt(adopted: readonly Adopted[], place: number): readonly number[] {
  return adopted[place]?.descriptors ?? [];
}

export class PoolMoves<W extends Omit<Mover, "worker"> = Omit<Mover, "worker">> {
  private readonly workers: () => readonly W[];
  /** By request: whom it waits for. */
  private readonly waiting = new Map<
    number,
    { readonly worker: W; readonly answer: (answer: MoveAnswer | undefined) => void }
  >();
  private requests = 0;

  constructor(workers: () => readonly W[]) {
    this.workers = workers;
  }

  /** How many Workers there are. */
  get count(): number {
    return this.workers().length;
  }

  /**
   * Has a Worker (from 0) freeze up to `most` connections or sessions: from the oldest one if it
   * `isFirst`, or behind the last call. They have whole ids. Undefined: it is gone, and what it had
   * with it.
   */
  async freeze(
    worker: number,
    protocol: Scheme,
    most: number,
    isFirst: boolean,
  ): Promise<FrozenRows | undefined> {
    const answer = await this.ask(worker, (request) => ({
      ...{ kind: "freeze", request, protocol, most, isFirst },
    }));
    if (answer?.kind !== "frozen") return undefined;
    const { number, generation } = this.workers()[worker] as W;
    const origin = { worker: number, generation };
    const rows = answer.frozen.rows.map((row) =>
      typeof row.id === "string"
        ? row
        : { ...row, id: formatConnectionId({ ...origin, sequence: row.id }) },
    );
    return { ...answer.frozen, rows };
  }

  /** Of those that a Worker has frozen, by their numbers, these have left and these go on. */
  settle(worker: number, left: readonly number[], kept: readonly number[]): void {
    this.workers()[worker]?.send({ kind: "settle", left, kept });
  }

  /**
   * Has a Worker (from 0) take over these with their descriptors, and go on with them once `begin`
   * is called. The descriptors of those that it has refused are closed.
   */
  async adopt(worker: number, adopted: readonly Adopted[]): Promise<Adoption> {
    if (adopted.length === 0) return nothing;
    const answer = await this.ask(worker, (request) => ({ kind: "adopt", request, adopted }));
    // One that is gone has taken over nothing.
    const refused = answer?.kind === "adopted" ? answer.refused : [...adopted.keys()];
    for (const place of refused) for (const fd of descriptorsAt(adopted, place)) sys.close(fd);
    const request = answer?.request ?? 0;
    return { refused, begin: () => this.workers()[worker]?.send({ kind: "begin", request }) };
  }

  answered(request: number, answer: MoveAnswer): void {
    this.waiting.get(request)?.answer(answer);
    this.waiting.delete(request);
  }

  /** A Worker is gone. */
  gone(worker: W): void {
    for (const [request, each] of this.waiting) {
      if (each.worker !== worker) continue;
      this.waiting.delete(request);
      each.answer(undefined);
    }
  }

  private ask(worker: number, make: (request: number) => Command): Promise<MoveAnswer | undefined> {
    const handle = this.workers()[worker];
    if (handle === undefined || handle.hasEnded) return Promise.resolve(undefined);
    const request = ++this.requests;
    const { promise, resolve: answer } = Promise.withResolvers<MoveAnswer | undefined>();
    this.waiting.set(request, { worker: handle, answer });
    handle.send(make(request));
    return promise;
  }
}
