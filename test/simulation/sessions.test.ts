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
  readonly counts = {
    evicted: 0,
    expired: 0,
    paidItself: 0,
    begun: 0,
    confirmed: 0,
    turnedBack: 0,
  };
  private readonly random: (below: number) => number;
  private readonly sessionsMax: number;
  private readonly table: SessionTable;
  private readonly model = new Map<string, Modelled>();
  private readonly clients: number;
  private readonly senders: number;
  private now = 1000;
  private uses = 0;

  constructor(seed: number) {
    this.random = generator(seed);
    this.sessionsMax = 1 + this.random(40);
    this.clients = 1 + this.random(30);
    const bounds = { sessionsMax: this.sessionsMax };
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
    for (const session of model.values()) {
      slots.add(session.slot);
      const deadline = table.deadline(session.slot);
      const idle = session.stage === "unanswered" ? session.idleMs : session.answeredIdleMs;
      if (deadline !== session.seen + idle) throw new Error(`deadline ${deadline}`);
      if (table.lastUse(session.slot) !== session.seen) throw new Error("another last use");
      if (table.phase(session.slot) !== session.stage) throw new Error("another phase");
    }
    if (slots.size !== model.size) throw new Error("two sessions with one slot");
    const victims = this.victims().map(({ slot }) => slot);
    const victim = table.victim();
    if (!(victims.length === 0 ? [-1] : victims).includes(victim)) {
      throw new Error(`victim ${victim}, not one of ${victims}`);
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
    // An IPv4 address, or the /64 of an IPv6 one and its interface.
    const isV4 = words[0] === "0" && words[1] === "0" && words[2] === String(0xffff0000);
    const owner = isV4 ? `${words[3]}` : [words[0], words[1], words[KEY_WORDS - 1]].join();
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
    let slot = this.table.create(this.now, idleMs, answeredIdleMs);
    if (this.model.size === this.sessionsMax) {
      if (slot !== TABLE_IS_FULL) throw new Error(`${slot} in a full table`);
      const victim = this.table.victim();
      const ended = [...this.model.values()].find((each) => each.slot === victim) as Modelled;
      this.remove(ended);
      if (ended.client === client) this.counts.paidItself++;
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

  /**
   * Whoever has the most pays, and all that is on probation counts as of one client. Of several
   * clients with as many it may be any.
   */
  private victims(): Modelled[] {
    const byUse = [...this.model.values()].sort((one, other) => one.use - other.use);
    const onProbation = (sessions: Modelled[]) =>
      sessions.filter(({ stage }) => stage !== "confirmed");
    const least = (sessions: Modelled[]) => onProbation(sessions)[0] ?? sessions[0];
    const clients = Map.groupBy(byUse, ({ client }) => client);
    const most = Math.max(...[...clients.values()].map(({ length }) => length));
    const victims = [...clients.values()]
      .filter(({ length }) => length === most)
      .map((own) => {
        const crowd = onProbation(byUse).length - onProbation(own).length;
        const isOwn = clients.size > 1 && most > 1 && crowd <= most;
        return least(isOwn ? own : byUse);
      });
    return victims.filter((victim) => victim !== undefined);
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
  const total = { evicted: 0, expired: 0, paidItself: 0, begun: 0, confirmed: 0, turnedBack: 0 };
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
  const table = new SessionTable({ sessionsMax: 100 }, () => 12345);
  const setClient = (client: number) => {
    table.key.fill(0);
    table.key[2] = 0xffff0000;
    table.key[3] = client;
  };
  const ask = (client: number): number => {
    setClient(client);
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
    setClient(client);
    expect(table.find()).toBe(slot);
  });
});

test("who answers back and begins sessions without end pays for them itself", () => {
  const sessionsMax = 200;
  const table = new SessionTable({ sessionsMax }, () => 12345);
  const begin = (client: number, destination: number): number => {
    table.key.fill(0);
    table.key[2] = 0xffff0000;
    table.key[3] = client;
    table.key[7] = destination;
    const slot = table.create(0, 60_000, 60_000);
    if (slot >= 0) return slot;
    table.remove(table.victim());
    return table.create(0, 60_000, 60_000);
  };
  const confirm = (slot: number) => {
    table.answered(slot, 0);
    table.asked(slot, 0);
  };
  const quiet = [begin(1, 1), begin(2, 1)];
  for (const slot of quiet) confirm(slot);
  const unanswered = begin(3, 1);
  for (let i = 0; i < 10 * sessionsMax; i++) confirm(begin(9, i));
  expect(quiet.map((slot) => table.phase(slot))).toEqual(["confirmed", "confirmed"]);
  // And so does one whose sessions nobody answers.
  for (let i = 0; i < 10 * sessionsMax; i++) begin(10, i);
  for (const [client, slot] of [
    [1, quiet[0]],
    [2, quiet[1]],
    [3, unanswered],
  ] as const) {
    table.key.fill(0);
    table.key[2] = 0xffff0000;
    table.key[3] = client;
    table.key[7] = 1;
    expect(table.find()).toBe(slot as number);
  }
});
