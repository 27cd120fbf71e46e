/**
 * Connections and sessions on their way to another process, in a Worker: some are frozen in a turn
 * of the loop, so that traffic goes on, and are settled once the other process has answered.
 */

import type { FrozenRows, MoveCommand, Packed } from "./moved.ts";
import type { WorkerMessage } from "./protocol.ts";
import type { Service } from "./service-context.ts";
import { type Open, type OpenRows, OpenWalk } from "./table.ts";

/** Rows that are looked at in one turn, and how many of them are frozen. */
const lookedPerTurn = 4_096;

/** The Worker. */
export interface MoveHost {
  /** What its services have open. */
  rows(): readonly OpenRows[];
  /** The id of the newest connection or session. */
  readonly lastId: number;
  service(id: number): Service | undefined;
  post(message: WorkerMessage): void;
}

export class Moves {
  private readonly host: MoveHost;
  private walk: OpenWalk<OpenRows> | undefined;
  /** By the id of the row. */
  private readonly frozen = new Map<number, { readonly row: Open; readonly part: OpenRows }>();
  /** Ids of those that the other process does not want. */
  private readonly kept = new Set<number>();

  /** By request: the connections that go on once the other process has closed its own. */
  private readonly adopted = new Map<number, readonly (() => void)[]>();

  constructor(host: MoveHost) {
    this.host = host;
  }

  carryOut(command: MoveCommand): void {
    switch (command.kind) {
      case "freeze":
        return this.freeze(command);
      case "settle":
        return this.settle(command);
      case "adopt":
        return this.adopt(command);
      case "begin":
        for (const begin of this.adopted.get(command.request) ?? []) begin();
        this.adopted.delete(command.request);
    }
  }

  private freeze({ request, protocol, most, isFirst }: MoveCommand & { kind: "freeze" }): void {
    const { host, frozen } = this;
    if (isFirst) this.walk = new OpenWalk(movable(host.rows(), protocol), host.lastId);
    const numbers: number[] = [];
    const rows: Packed[] = [];
    const descriptors: number[] = [];
    let isLast = false;
    for (let looked = 0; looked < lookedPerTurn && rows.length < most; looked++) {
      const row = this.walk?.next();
      const part = this.walk?.part;
      isLast = row === undefined || part === undefined;
      if (row === undefined || part === undefined) break;
      const given = this.kept.has(row.id) ? undefined : part.moves?.freeze(row);
      if (given === undefined) continue;
      frozen.set(row.id, { row, part });
      numbers.push(row.id);
      rows.push(given.packed);
      descriptors.push(...given.descriptors);
    }
    const answer: FrozenRows = { numbers, rows, descriptors, isLast };
    host.post({ kind: "frozen", request, frozen: answer });
  }

  private settle({ left, kept }: MoveCommand & { kind: "settle" }): void {
    for (const [numbers, hasLeft] of [
      [left, true],
      [kept, false],
    ] as const) {
      for (const number of numbers) {
        const known = this.frozen.get(number);
        this.frozen.delete(number);
        if (hasLeft) known?.part.moves?.leave(known.row);
        else {
          this.kept.add(number);
          known?.part.moves?.thaw(known.row);
        }
      }
    }
  }

  private adopt({ request, adopted }: MoveCommand & { kind: "adopt" }): void {
    const begins: (() => void)[] = [];
    const refused: number[] = [];
    for (const [index, { service, packed, descriptors }] of adopted.entries()) {
      const begin = this.host.service(service)?.adopt?.(packed, descriptors);
      if (begin === undefined) refused.push(index);
      else begins.push(begin);
    }
    this.adopted.set(request, begins);
    this.host.post({ kind: "adopted", request, refused });
  }
}

function movable(rows: readonly OpenRows[], protocol: string): readonly OpenRows[] {
  return rows.filter(({ moves }) => moves?.protocol === protocol);
}
