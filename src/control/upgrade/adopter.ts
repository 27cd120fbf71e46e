/** Gives the connections and sessions of an old process to the Workers of this one. */

import * as sys from "../../../ffi/sys.ts";
import type { Adopted, Packed } from "../../workers/moved.ts";
import type { Adoption } from "../../workers/pool-moves.ts";

/** The Workers of this process; each of them is named by its place. */
export interface AdoptingWorkers {
  readonly count: number;
  /** Takes over the descriptors, and closes those of what is refused. */
  adopt(worker: number, adopted: readonly Adopted[]): Promise<Adoption>;
}

/** Where something goes. */
export interface Place {
  /** The number of its service. */
  readonly service: number;
  /** Undefined: any Worker. */
  readonly worker?: number | undefined;
}

export class Adopter {
  private readonly workers: AdoptingWorkers;
  private next = 0;

  constructor(workers: AdoptingWorkers) {
    this.workers = workers;
  }

  /**
   * Takes over a batch: the descriptors of all rows lie one behind the other, and are owned from
   * here on. `placeOf` returns undefined for what has no place here. What is taken over rests
   * until `begin` is called.
   */
  async adopt(
    rows: readonly Packed[],
    descriptors: readonly number[],
    placeOf: (row: Packed) => Place | undefined,
  ): Promise<Adoption> {
    const refused: number[] = [];
    const begins: (() => void)[] = [];
    const { count } = this.workers;
    const shares = Array.from({ length: count }, () => ({
      places: [] as number[],
      adopted: [] as Adopted[],
    }));
    let from = 0;
    for (const [place, packed] of rows.entries()) {
      const own = descriptors.slice(from, from + packed.descriptors);
      from += packed.descriptors;
      const to = placeOf(packed);
      const share = to && shares[to.worker ?? this.next++ % count];
      if (to === undefined || share === undefined) {
        refused.push(place);
        for (const fd of own) sys.close(fd);
        continue;
      }
      share.places.push(place);
      share.adopted.push({ service: to.service, packed, descriptors: own });
    }
    await Promise.all(
      shares.map(async ({ places, adopted }, worker) => {
        const adoption = await this.workers.adopt(worker, adopted);
        for (const index of adoption.refused) refused.push(places[index] as number);
        begins.push(() => adoption.begin());
      }),
    );
    return { refused, begin: () => begins.forEach((begin) => void begin()) };
  }
}
