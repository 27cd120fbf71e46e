/**
 * The table of UDP sessions under seeded arrivals, answers, expiries, evictions and clock jumps,
 * beside a model that is a plain Map. After every step both agree; a failure prints its seed, and
 * TPROXY_SEED replays it.
 */

import { expect, test } from "bun:test";
import { KEY_WORDS } from "../../src/engine/flow-key.ts";
import { newcomersKept, newcomersKeptShare, sweptIdlePart } from "../../src/engine/limits.ts";
import { SessionTable } from "../../src/forward/udp/session-table.ts";
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
    rejected: 0,
    early: 0,
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
    const owner = this.setKey(this.random(this.clients), 0);
    this.checkVictim(table.victim(this.now), owner.client, this.countOf(owner.client) + 1);
    this.checkEarly();
    const session = this.anySession();
    if (session === undefined) return;
    const victim = table.victimFor(session.slot, this.now);
    if (victim === session.slot) throw new Error("a session pays for a socket of its own");
    if (victim >= 0) this.checkVictim(victim, "", this.countOf(session.client));
  }

  /** Silent sessions end early, of whoever has more than a share, and no confirmed one unasked. */
  private checkEarly(): void {
    const alsoConfirmed = this.random(2) === 0;
    const early = this.table.early(this.now, alsoConfirmed);
    const expected = this.earlyOnes(alsoConfirmed).map((each) => each?.slot ?? -1);
    if (!expected.includes(early)) throw new Error(`early ${early}, not one of ${expected}`);
    if (early >= 0) this.counts.early++;
  }

  private earlyOnes(alsoConfirmed: boolean): (Modelled | undefined)[] {
    const { byUse, clients, count, most, isCrowded, newcomers } = this.survey();
    if (byUse.length === 0) return [undefined];
    const ifSilent = (session: Modelled | undefined) =>
      session !== undefined && this.isSilent(session) ? session : undefined;
    return clients.map((own) => {
      if (isCrowded(own)) return ifSilent(newcomers(byUse)[0]);
      if (count === 1 || most <= this.sessionsMax / count) return undefined;
      const [confirmed] = own.filter(({ stage }) => stage === "confirmed");
      return ifSilent(newcomers(own)[0]) ?? (alsoConfirmed ? ifSilent(confirmed) : undefined);
    });
  }

  /** The clients that have the most, each with its sessions, the least recently used first. */
  private survey() {
    const byUse = [...this.model.values()].sort((one, other) => one.use - other.use);
    const newcomers = (sessions: Modelled[]) =>
      sessions.filter(({ stage }) => stage !== "confirmed");
    const all = [...Map.groupBy(byUse, ({ client }) => client).values()];
    const most = Math.max(0, ...all.map(({ length }) => length));
    const crowd = (own: Modelled[]) => newcomers(byUse).length - newcomers(own).length;
    return {
      byUse,
      newcomers,
      most,
      count: all.length,
      crowd,
      clients: all.filter(({ length }) => length === most),
      /** What is on probation counts as of one client, and has more than the one that has most. */
      isCrowded: (own: Modelled[]) => crowd(own) > most,
    };
  }

  /** That this is who pays for a client that has `count` sessions then. */
  private checkVictim(victim: number, client: string, count: number): void {
    const victims = this.victims(client, count).map((each) => each?.slot ?? -1);
    if (victim < 0 && this.model.size > 0) this.counts.rejected++;
    if (!victims.includes(victim)) throw new Error(`victim ${victim}, not one of ${victims}`);
    const ended = [...this.model.values()].find(({ slot }) => slot === victim);
    if (ended === undefined || ended.stage !== "confirmed" || this.isSilent(ended)) return;
    // The one rule that matters, whatever those of who pays are.
    if (this.countOf(ended.client) <= count) throw new Error("a lively session of a light client");
  }

  private countOf(client: string): number {
    return [...this.model.values()].filter((each) => each.client === client).length;
  }

  private isSilent({ stage, seen, idleMs, answeredIdleMs }: Modelled): boolean {
    const timeoutMs = stage === "unanswered" ? idleMs : answeredIdleMs;
    return seen + sweptIdlePart * timeoutMs <= this.now;
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
    if (this.table.victim(this.now) !== -1) throw new Error("something is left");
  }

  private setKey(client: number, destination: number): { key: string; client: string } {
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
    // An IPv4 address, or the /64 of an IPv6 one and its interface.
    const isV4 = key[0] === 0 && key[1] === 0;
    const owner = isV4 ? `${key[3]}` : [key[0], key[1], key[KEY_WORDS - 1]].join();
    return { key: key.join(), client: owner };
  }

  private ask(client: number, destination: number): void {
    const { key, client: owner } = this.setKey(client, destination);
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
    const [idleMs, answeredIdleMs] = [100 + this.random(1000), 10 + this.random(30_000)];
    let slot = this.table.create(this.now, idleMs, answeredIdleMs);
    if (this.model.size === this.sessionsMax) {
      if (slot !== -1) throw new Error(`${slot} in a full table`);
      const victim = this.table.victim(this.now);
      const ended = [...this.model.values()].find((each) => each.slot === victim);
      if (ended === undefined) return;
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
   * clients with as many it may be any. Undefined: nobody.
   */
  private victims(asking: string, count: number): (Modelled | undefined)[] {
    const { byUse, clients, most, isCrowded, crowd, newcomers } = this.survey();
    const kept = Math.min(newcomersKept, Math.ceil(newcomersKeptShare * this.sessionsMax));
    if (byUse.length === 0) return [undefined];
    return clients.map((own) => {
      if (isCrowded(own)) return newcomers(byUse)[0];
      const payers = most === 1 ? byUse : own;
      const [confirmed] = payers.filter(({ stage }) => stage === "confirmed");
      const [newcomer] = newcomers(payers);
      if (newcomers(payers).length >= kept) return newcomer;
      if (confirmed !== undefined && this.isSilent(confirmed)) return confirmed;
      if (newcomer !== undefined || count >= most) return newcomer;
      const isFew = crowd(own) < newcomersKeptShare * this.sessionsMax;
      const mine = newcomers(byUse.filter(({ client }) => client === asking));
      return isFew ? confirmed : (mine[0] ?? newcomers(byUse)[0]);
    });
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
  const total = { ...new Simulation(first).counts };
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
}, 240_000);

/** A table in which time stands still, unless it is told otherwise. */
class Table {
  now = 0;
  rejected = 0;
  readonly table: SessionTable;

  constructor(sessionsMax: number) {
    this.table = new SessionTable({ sessionsMax }, () => 12345);
  }

  find(client: number, destination = 1): number {
    const { key } = this.table;
    key.fill(0);
    key[2] = 0xffff0000;
    key[3] = client;
    key[7] = destination;
    return this.table.find();
  }

  /** The client sends: begins a session if there is none, at the cost of another one if need be. */
  ask(client: number, destination = 1): number {
    const { table, now } = this;
    const known = this.find(client, destination);
    if (known >= 0) {
      table.asked(known, now);
      return known;
    }
    if (table.isFull) {
      const victim = table.victim(now);
      if (victim < 0) {
        this.rejected++;
        return -1;
      }
      table.remove(victim);
    }
    return table.create(now, 60_000, 60_000);
  }

  /** The client sends, is answered, and sends again. */
  confirm(client: number, destination = 1): number {
    const slot = this.ask(client, destination);
    if (slot < 0) return slot;
    this.table.answered(slot, this.now);
    return this.ask(client, destination);
  }

  /** How many of these sessions there still are, as confirmed ones. */
  confirmed(client: number, destinations: number): number {
    let count = 0;
    for (let i = 0; i < destinations; i++) {
      const slot = this.find(client, i);
      if (slot >= 0 && this.table.phase(slot) === "confirmed") count++;
    }
    return count;
  }
}

test("a flood ends its own sessions, not those of clients that have answered back", () => {
  const table = new Table(100);
  const real = Array.from({ length: 50 }, (_, client) => table.confirm(client));
  for (let spoofed = 1000; spoofed < 100_000; spoofed++) table.ask(spoofed);
  expect(real.map((_, client) => table.find(client))).toEqual(real);
});

test("who answers back and begins sessions without end pays for them itself", () => {
  const table = new Table(200);
  const quiet = [table.confirm(1), table.confirm(2)];
  const unanswered = table.ask(3);
  for (let i = 0; i < 2_000; i++) {
    table.now += 2;
    table.confirm(9, i);
    // Lively, as another client is.
    for (const client of [1, 2]) table.ask(client);
  }
  expect(table.rejected).toBeGreaterThan(100);
  expect(quiet.map((slot) => table.table.phase(slot))).toEqual(["confirmed", "confirmed"]);
  // And so does one whose sessions nobody answers.
  for (let i = 0; i < 2_000; i++) table.ask(10, i);
  expect([1, 2, 3].map((client) => table.find(client))).toEqual([...quiet, unanswered]);
});

test("sources forged in the name of who has the most end none of its lively sessions", () => {
  const table = new Table(1_000);
  const [heavy, lively, silent] = [1, 600, 300] as const;
  for (let i = 0; i < lively + silent; i++) table.confirm(heavy, i);
  table.now += 10_000;
  for (let i = 0; i < lively; i++) table.ask(heavy, i);
  for (let forged = 10_000; forged < 60_000; forged++) {
    if (forged % 100 === 0) table.now++;
    table.ask(heavy, forged);
    // It still begins sessions of its own, and other clients do.
    if (forged % 1000 === 0) expect(table.confirm(2, forged)).toBeGreaterThanOrEqual(0);
  }
  expect(table.confirmed(heavy, lively)).toBe(lively);
  // Of those that it can do without there are a few less, for those of others.
  const left = table.confirmed(heavy, lively + silent) - lively;
  expect(left).toBeGreaterThanOrEqual(silent - 64);
});

test("a flood from sources in many names takes an eighth of the places of lively sessions", () => {
  const table = new Table(800);
  for (let i = 0; i < 700; i++) table.confirm(1, i);
  for (let i = 0; i < 100; i++) table.confirm(2, i);
  for (let forged = 1_000; forged < 50_000; forged++) table.ask(forged);
  expect([table.confirmed(1, 700), table.confirmed(2, 100)]).toEqual([600, 100]);
  // Who answers back gets more than that, up to an even share.
  for (let i = 0; i < 300; i++) expect(table.confirm(3, i)).toBeGreaterThanOrEqual(0);
  expect(table.confirmed(3, 300)).toBe(300);
});

test("nor do sources forged in the name of another, which make it the heaviest", () => {
  const table = new Table(1_000);
  const [victim, other] = [1, 2] as const;
  for (let i = 0; i < 300; i++) table.confirm(victim, i);
  for (let i = 0; i < 400; i++) table.confirm(other, i);
  for (let forged = 10_000; forged < 30_000; forged++) table.ask(victim, forged);
  for (let i = 0; i < 150; i++) expect(table.confirm(3, i)).toBeGreaterThanOrEqual(0);
  expect([table.confirmed(victim, 300), table.confirmed(other, 400)]).toEqual([300, 400]);
});

test("forged sources that fill the table shorten no time-out of confirmed sessions", () => {
  const table = new Table(100);
  for (let i = 0; i < 60; i++) table.confirm(1, i);
  table.confirm(2);
  for (let forged = 1_000; forged < 1_039; forged++) table.ask(1, forged);
  table.now = 10_000;
  let ended = 0;
  for (;;) {
    const early = table.table.early(table.now, false);
    if (early < 0) break;
    table.table.remove(early);
    ended++;
  }
  expect([ended, table.confirmed(1, 60)]).toEqual([39, 60]);
  // If they fill it themselves they end as well, down to an even share.
  while (table.table.early(table.now, true) >= 0) {
    table.table.remove(table.table.early(table.now, true));
  }
  expect(table.confirmed(1, 60)).toBe(50);
});

test("when nobody has more than one session, which is in use, a newcomer is rejected", () => {
  const table = new Table(50);
  for (let client = 0; client < 50; client++) table.confirm(client);
  expect(table.ask(99)).toBe(-1);
  // It gets the place of one that has been silent.
  table.now = 10_000;
  for (let client = 1; client < 50; client++) table.ask(client);
  expect(table.ask(99)).toBeGreaterThanOrEqual(0);
  expect(table.find(0)).toBe(-1);
});
