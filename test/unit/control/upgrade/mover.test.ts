/**
 * The move of open connections between two processes, without either: Workers and a target that
 * refuse, die and answer late, by a seed. Whatever they do, each connection is served by one
 * process at any moment, and by one in the end. TPROXY_SEED replays a failure.
 */

import { describe, expect, test } from "bun:test";
import { Adopter } from "../../../../src/control/upgrade/adopter.ts";
import { Mover, type MovingWorkers } from "../../../../src/control/upgrade/mover.ts";
import type { Adopted, Packed } from "../../../../src/workers/moved.ts";
import type { Adoption } from "../../../../src/workers/pool-moves.ts";
import { generator } from "../../../helpers/random.ts";

type Random = (below: number) => number;
type Holder = "old" | "frozen" | "taken" | "new" | "lost";

/** Two processes, and who serves each connection, by its id. */
class World {
  readonly holders = new Map<string, Holder>();
  /** How often each one was adopted. */
  readonly adopted = new Map<string, number>();
  readonly random: Random;
  isNewGone = false;
  private readonly workers: number;
  private readonly dead = new Set<number>();
  private readonly walks: string[][];
  /** Not to be asked for again. */
  private readonly kept = new Set<string>();

  constructor(random: Random, workers: number, rows: number) {
    this.random = random;
    this.workers = workers;
    for (let row = 0; row < rows; row++) this.holders.set(`${row % workers}.${row}.1`, "old");
    this.walks = Array.from({ length: workers }, () => []);
  }

  get old(): MovingWorkers {
    return {
      count: this.workers,
      freeze: async (worker, _protocol, most, isFirst) => {
        await this.moment();
        if (this.dead.has(worker)) return undefined;
        if (this.random(200) === 0) return this.die(worker);
        if (isFirst) this.walks[worker] = this.rowsOf(worker, "old");
        const walk = this.walks[worker] as string[];
        const taken = walk.splice(0, 1 + this.random(most));
        // Some are not at rest.
        const ids = taken.filter((id) => this.holders.get(id) === "old" && this.random(10) > 0);
        const movable = ids.filter((id) => !this.kept.has(id));
        for (const id of movable) this.pass(id, "old", "frozen");
        return {
          numbers: movable.map((id) => Number(id.split(".")[1])),
          rows: movable.map((id) => ({
            ...{ protocol: "tcp", service: id.endsWith("7.1") ? "gone" : "web", id },
            descriptors: 0,
          })),
          descriptors: [],
          isLast: walk.length === 0,
        };
      },
      settle: (worker, left, kept) => {
        for (const number of left) {
          const id = `${worker}.${number}.1`;
          // The new process has it by now, or has ended with it.
          this.pass(id, "taken", this.isNewGone ? "lost" : "new");
        }
        for (const number of kept) {
          const id = `${worker}.${number}.1`;
          this.kept.add(id);
          // It may be taken over by a process that has ended, but is not served there.
          const from = this.holders.get(id) === "taken" ? "taken" : "frozen";
          this.pass(id, from, this.dead.has(worker) ? "lost" : "old");
        }
      },
    };
  }

  get new() {
    return {
      count: 2,
      adopt: async (_worker: number, adopted: readonly Adopted[]) => {
        await this.moment();
        if (this.isNewGone) throw new Error("it is gone");
        const refused: number[] = [];
        for (const [place, { packed }] of adopted.entries()) {
          const id = String(packed.id);
          if (this.random(10) === 0) refused.push(place);
          else {
            this.adopted.set(id, (this.adopted.get(id) ?? 0) + 1);
            this.pass(id, "frozen", "taken");
          }
        }
        return { refused, begin: () => {} };
      },
    };
  }

  rowsOf(worker: number, holder: Holder): string[] {
    return [...this.holders].flatMap(([id, each]) =>
      each === holder && id.startsWith(`${worker}.`) ? [id] : [],
    );
  }

  /** Something else may happen first. */
  async moment(): Promise<void> {
    for (let turns = this.random(4); turns > 0; turns--) await Promise.resolve();
    if (this.random(8) === 0) await new Promise<void>((done) => setImmediate(done));
  }

  private pass(id: string, from: Holder, to: Holder): void {
    const holder = this.holders.get(id);
    if (holder !== from) throw new Error(`${id} is ${holder}, not ${from}`);
    this.holders.set(id, to);
  }

  private die(worker: number): undefined {
    this.dead.add(worker);
    // What is frozen is not closed with it.
    for (const id of this.rowsOf(worker, "old")) this.holders.set(id, "lost");
  }
}

async function simulate(seed: number): Promise<World> {
  const random = generator(seed);
  const world = new World(random, 1 + random(3), random(2_000));
  const adopter = new Adopter(world.new);
  const mover = new Mover(world.old, {
    send: (batch: number, rows: readonly Packed[]) => void receive(batch, rows),
    begin: (batch) => {
      if (!world.isNewGone) adoptions.get(batch)?.begin();
      adoptions.delete(batch);
    },
  });
  const adoptions = new Map<number, Adoption>();
  const receive = async (batch: number, rows: readonly Packed[]) => {
    await world.moment();
    if (world.isNewGone) return;
    // It dies with what it has not taken over; the old process hears of that later.
    if (random(30) === 0) {
      world.isNewGone = true;
      await world.moment();
      return mover.end();
    }
    const place = ({ service }: Packed) => (service === "web" ? { service: 1 } : undefined);
    try {
      const adoption = await adopter.adopt(rows, [], place);
      adoptions.set(batch, adoption);
      await world.moment();
      if (!world.isNewGone) mover.adopted(batch, adoption.refused);
    } catch {
      mover.end();
    }
  };
  for (let pass = 1 + random(3); pass > 0; pass--) await mover.move("tcp");
  mover.end();
  return world;
}

describe("whatever Workers and the new process do", () => {
  test("each connection is served by one process, and none is left between them", async () => {
    const replay = process.env.TPROXY_SEED;
    const first = replay === undefined ? Math.floor(Math.random() * 0xffffffff) : Number(replay);
    const runs = replay === undefined ? 100 : 1;
    const reached = new Set<Holder | "gone">();
    for (let seed = first; seed < first + runs; seed++) {
      try {
        const world = await simulate(seed);
        for (const [id, holder] of world.holders) {
          reached.add(holder);
          const isBetween = holder === "frozen" || holder === "taken";
          if (isBetween) throw new Error(`${id} is left between both: ${holder}`);
        }
        if (world.isNewGone) reached.add("gone");
        const twice = [...world.adopted].filter(([, count]) => count > 1);
        if (twice.length > 0) throw new Error(`adopted twice: ${twice}`);
      } catch (error) {
        throw new Error(`TPROXY_SEED=${seed}: ${error instanceof Error ? error.stack : error}`);
      }
    }
    if (replay !== undefined) return;
    expect([...reached].sort()).toEqual(["gone", "lost", "new", "old"]);
  }, 60_000);
});
