/**
 * The table of UDP sessions under seeded arrivals, answers, expiries, evictions and clock jumps,
 * beside a model that is a plain Map. After every step both agree; a failure prints its seed, and
 * TPROXY_SEED replays it.
 */

import { expect, test } from "bun:test";
import { KEY_WORDS } from "../../src/forward/flow-key.ts";
import { SessionTable, TABLE_IS_FULL } from "../../src/udp/session-table.ts";
import { generator } from "../helpers/random.ts";

interface Modelled {
  readonly key: string;
  readonly client: string;
  readonly slot: number;
  readonly idleMs: number;
  readonly answeredIdleMs: number;
  seen: number;
  /** When it was last used, as a number that never repeats. */
  use: number;
  stage: "unanswered" | "answered" | "confirmed";
}

class Simulation {
  readonly counts = { evicted: 0, expired: 0, refused: 0, begun: 0, confirmed: 0, turnedBack: 0 };
  private readonly random: (below: number) => number;
  private readonly sessionsMax: number;
  private readonly perClientMax: number;
  private readonly table: SessionTable;
  private readonly model = new Map<string, Modelled>();
  private readonly clients: number;
  private readonly senders: number;
  private now = 1000;
  private uses = 0;

  constructor(seed: number) {
    this.random = generator(seed);
    this.sessionsMax = 1 + this.random(40);
    this.perClientMax = this.random(3) === 0 ? 1 + this.random(6) : 0;
    this.clients = 1 + this.random(30);
    const bounds = { sessionsMax: this.sessionsMax, perClientMax: this.perClientMax };
    // With the longer keys of the PROXY protocol several senders carry the same clients.
    this.senders = this.random(2) === 0 ? 0 : 3;
    const keyWords = this.senders === 0 ? KEY_WORDS : 2 * KEY_WORDS;
    this.table = new SessionTable(bounds, () => this.random(0xffffffff), keyWords);
  }

  step(): void {
    switch (this.random(12)) {
      case 0:
        this.now += this.passed();
        return this.expire();
      case 1:
      case 2:
      case 3: {
        const session = this.anySession();
        if (session !== undefined) this.answer(session);
        return;
      }
      case 4: {
        const session = this.anySession();
        if (session !== undefined && this.random(4) === 0) this.remove(session);
        return;
      }
      default:
        this.ask(this.random(this.clients), this.random(6));
    }
  }

  check(): void {
    const { table, model } = this;
    if (table.size !== model.size) throw new Error(`size ${table.size}, not ${model.size}`);
    if (table.size > this.sessionsMax) throw new Error("more sessions than may be");
    const slots = new Set<number>();
    const perClient = new Map<string, number>();
    for (const session of model.values()) {
      slots.add(session.slot);
      perClient.set(session.client, (perClient.get(session.client) ?? 0) + 1);
      const deadline = table.deadline(session.slot);
      const idle = session.stage === "unanswered" ? session.idleMs : session.answeredIdleMs;
      if (deadline !== session.seen + idle) throw new Error(`deadline ${deadline}`);
      if (table.lastUse(session.slot) !== session.seen) throw new Error("another last use");
      if (table.phase(session.slot) !== session.stage) throw new Error("another phase");
    }
    if (slots.size !== model.size) throw new Error("two sessions with one slot");
    if (this.perClientMax > 0) {
      for (const count of perClient.values()) {
        if (count > this.perClientMax) throw new Error("a client with more than it may have");
      }
    }
    const victim = this.victim();
    if (table.victim() !== (victim?.slot ?? -1)) {
      throw new Error(`victim ${table.victim()}, not ${victim?.slot}`);
    }
  }

  /**
   * Time passes: often none at all, now and then a lot of it, as on a machine that was suspended. A
   * clock that is turned back must not do harm either: who has to go is a matter of order.
   */
  private passed(): number {
    const kind = this.random(20);
    if (kind === 0) return 1_000_000;
    if (kind < 3) return 0;
    if (kind > 4) return this.random(300);
    this.counts.turnedBack++;
    return -this.random(kind === 3 ? 300 : 1_000_000);
  }

  /** Ends everything, after which nothing is left. */
  finish(): void {
    for (const session of [...this.model.values()]) this.remove(session);
    this.check();
    if (this.table.victim() !== -1) throw new Error("something is left");
  }

  private setKey(client: number, destination: number): string {
    const { key } = this.table;
    key.fill(0);
    // A few bits each, at both ends of the words: what a poor hash would mistake for each other.
    key[2] = 0xffff0000;
    key[3] = client << (destination % 2 === 0 ? 24 : 0);
    if (destination % 2 === 0) key[0] = client;
    key[7] = destination;
    key[8] = (client << 16) | destination;
    key[KEY_WORDS - 1] = client % 3;
    if (this.senders > 0) key[KEY_WORDS + 8] = this.random(this.senders) << 16;
    return key.join();
  }

  private ask(client: number, destination: number): void {
    const key = this.setKey(client, destination);
    const words = key.split(",");
    const owner = [...words.slice(0, 4), words[KEY_WORDS - 1]].join();
    const known = this.model.get(key);
    const slot = this.table.find();
    if (slot !== (known?.slot ?? -1)) throw new Error(`found ${slot}, not ${known?.slot}`);
    if (known === undefined) return this.begin(key, owner);
    this.table.asked(known.slot, this.now);
    if (known.stage === "answered") {
      known.stage = "confirmed";
      this.counts.confirmed++;
    }
    this.use(known);
  }

  private begin(key: string, client: string): void {
    const [idleMs, answeredIdleMs] = [100 + this.random(1000), 10 + this.random(3000)];
    const ofClient = [...this.model.values()].filter((each) => each.client === client).length;
    const isFull = this.perClientMax > 0 && ofClient >= this.perClientMax;
    if (this.table.isClientFull() !== isFull) throw new Error(`a client with ${ofClient}`);
    if (isFull) {
      this.counts.refused++;
      return;
    }
    let slot = this.table.create(this.now, idleMs, answeredIdleMs);
    if (this.model.size === this.sessionsMax) {
      if (slot !== TABLE_IS_FULL) throw new Error(`${slot} in a full table`);
      this.remove(this.victim() as Modelled);
      this.counts.evicted++;
      slot = this.table.create(this.now, idleMs, answeredIdleMs);
    }
    if (slot < 0 || slot >= this.sessionsMax) throw new Error(`slot ${slot}`);
    const session = { key, client, slot, idleMs, answeredIdleMs, seen: 0, use: 0 };
    const begun: Modelled = { ...session, stage: "unanswered" };
    this.use(begun);
    this.model.set(key, begun);
    this.counts.begun++;
  }

  private answer(session: Modelled): void {
    const isFirst = this.table.answered(session.slot, this.now);
    if (isFirst !== (session.stage === "unanswered")) throw new Error(`first answer: ${isFirst}`);
    if (isFirst) session.stage = "answered";
    this.use(session);
  }

  private use(session: Modelled): void {
    session.seen = this.now;
    session.use = ++this.uses;
  }

  private expire(): void {
    for (const session of [...this.model.values()]) {
      if (this.table.deadline(session.slot) > this.now) continue;
      this.remove(session);
      this.counts.expired++;
    }
  }

  private remove(session: Modelled): void {
    this.table.remove(session.slot);
    this.model.delete(session.key);
  }

  private anySession(): Modelled | undefined {
    const all = [...this.model.values()];
    return all[this.random(Math.max(1, all.length))];
  }

  /** The least recently used of those on probation, otherwise of the others. */
  private victim(): Modelled | undefined {
    const byUse = [...this.model.values()].sort((one, other) => one.use - other.use);
    return byUse.find(({ stage }) => stage !== "confirmed") ?? byUse[0];
  }
}

function simulate(seed: number, steps: number): Simulation["counts"] {
  const simulation = new Simulation(seed);
  for (let i = 0; i < steps; i++) {
    simulation.step();
    simulation.check();
  }
  simulation.finish();
  return simulation.counts;
}

test("whatever arrives, the table is what a Map with all the rules would be", () => {
  const replay = process.env.TPROXY_SEED;
  const first = replay === undefined ? Math.floor(Math.random() * 0xffffffff) : Number(replay);
  const runs = replay === undefined ? 120 : 1;
  const total = { evicted: 0, expired: 0, refused: 0, begun: 0, confirmed: 0, turnedBack: 0 };
  for (let seed = first; seed < first + runs; seed++) {
    try {
      const counts = simulate(seed, 600);
      for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += counts[name];
    } catch (error) {
      throw new Error(`TPROXY_SEED=${seed}: ${error instanceof Error ? error.message : error}`);
    }
  }
  if (replay !== undefined) return;
  // Every rule was at work, often.
  for (const count of Object.values(total)) expect(count).toBeGreaterThan(runs);
}, 60_000);

test("a flood ends its own sessions, not those of clients that have answered back", () => {
  const table = new SessionTable({ sessionsMax: 100, perClientMax: 0 }, () => 12345);
  const ask = (client: number): number => {
    table.key.fill(0);
    table.key[3] = client;
    const known = table.find();
    if (known >= 0) {
      table.asked(known, 0);
      return known;
    }
    const slot = table.create(0, 60_000, 60_000);
    if (slot >= 0) return slot;
    table.remove(table.victim());
    return table.create(0, 60_000, 60_000);
  };
  const real = Array.from({ length: 50 }, (_, client) => {
    const slot = ask(client);
    table.answered(slot, 0);
    ask(client);
    return slot;
  });
  for (let spoofed = 1000; spoofed < 100_000; spoofed++) ask(spoofed);
  real.forEach((slot, client) => {
    table.key.fill(0);
    table.key[3] = client;
    expect(table.find()).toBe(slot);
  });
});
