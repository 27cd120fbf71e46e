/**
 * The services of a process that the kernel carries: their rules in one table, their slots, and
 * what is known of their connections.
 */

import type { Mark } from "../../../ffi/types.ts";
import type { PathIntent } from "../../capture/kernel-path/intent.ts";
import type { Kernel } from "../../capture/live/kernel.ts";
import type { Configuration } from "../../config/service.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import type { LevelName } from "../../log/level.ts";
import type { Log } from "../../log/log.ts";
import { sumValues } from "../../workers/counters.ts";
import type { Counted } from "../../workers/inherited-counts.ts";
import { LogLevel, type WorkerEvent } from "../../workers/protocol.ts";
import type { RowQuery } from "../../workers/query.ts";
import type { Rows, Selection } from "../../workers/scan-requests.ts";
import type { Pools } from "../pools/pools.ts";
import type { ServerSettings } from "../server/settings.ts";
import { protocolsOf } from "../server/tasks.ts";
import { CarriedCounts } from "./carried-counts.ts";
import type { PathCandidate } from "./choose-path.ts";
import { guardMarkOf, type StandingOf } from "./describe-service.ts";
import type { WantedLines } from "./flow-log.ts";
import { killFlows, queryFlows } from "./flow-scans.ts";
import { FlowWatch } from "./flow-watch.ts";
import { HeldPath, type NumberedService } from "./held-path.ts";
import { LeavingServices } from "./leaving-services.ts";
import { type Carried, pathIntent, tableNameOf, unwatched } from "./path-intent.ts";
import { leftInTheWay, RetiredPaths } from "./retired-paths.ts";

const pollMs = 100;

/** What has to be known to install the rules of the kernel path. */
export interface InstallOptions {
  readonly routes: Configuration["routes"];
  /** Another table of this process, or of the one that hands over to it, has the name. */
  readonly isNameTaken: boolean;
  /** Somebody may ask for the counters; undefined: at the usual admin socket of a file. */
  readonly counts: boolean | undefined;
  /** What all services listen at, at the start; undefined: at a reload, or while taking over. */
  readonly listeners: readonly string[] | undefined;
  /** What another process has left of services that the relay carries now. */
  readonly retired: RetiredPaths | undefined;
  /** Whether connections of services that are gone are ended; otherwise they go on. */
  readonly closesRemoved: boolean;
}

export class CarriedServices {
  private readonly log: Pick<Log, "print" | "warn">;
  /** The log and the rules name the services. */
  private readonly isNamed: boolean;
  private readonly spell: SettingWords;
  /** Known once the server is made. */
  private readonly pools: () => Pick<Pools, "standingOf" | "board">;
  private readonly counts = new CarriedCounts();
  private readonly leaving = new LeavingServices((name, watch) => this.forget(name, watch));
  /** The level that was set at run time; undefined: each service has its own. */
  private level: LevelName | undefined;
  private isCounted = false;
  private held: HeldPath | undefined;
  private routes: Configuration["routes"] | undefined;
  /** What another process has left, of whose services the relay has the new connections. */
  private retired: RetiredPaths | undefined;
  /** On the clock of `performance.now()`. */
  private drainedSince = 0;
  private isServing = false;
  /** The rules stay as they are at the end. */
  private isKept = false;
  /** By name. */
  private carried: ReadonlyMap<string, Carried> = new Map();

  constructor(
    { io, words, isNameless }: Pick<ServerSettings, "io" | "words" | "isNameless">,
    log: Pick<Log, "print" | "warn">,
    pools: () => Pick<Pools, "standingOf" | "board">,
  ) {
    this.log = log;
    this.isNamed = !isNameless;
    this.spell = words.setting;
    this.pools = pools;
    io.onReport(() => this.report());
  }

  /** Whether the kernel carries a service. */
  has(name: string): boolean {
    return this.carried.has(name);
  }

  /**
   * Has the kernel carry these services, and no others; the changes, a line each. Connections of
   * services that stay go on. @throws CommandError: then nothing was changed
   */
  async install(
    candidates: readonly PathCandidate[],
    { routes, isNameTaken, counts, listeners, retired, closesRemoved }: InstallOptions,
  ): Promise<readonly string[]> {
    this.routes = routes;
    this.isCounted = counts ?? this.isNamed;
    if (candidates.length === 0) {
      this.leaveAll(closesRemoved);
      if (routes.install !== "auto") {
        for (const each of leftInTheWay(listeners ?? [])) this.log.warn(each);
      }
      this.retired = retired;
      return (await retired?.retire(this.spell)) ?? [];
    }
    const { held } = this;
    if (held !== undefined) {
      const numbers = held.freeNumbers(candidates.length, this.leaving.numbers);
      const gone = this.replace(
        candidates,
        numbers.map((number) => ({ number, slots: undefined })),
      );
      this.refresh();
      this.lose(gone, closesRemoved);
      return [];
    }
    const applied = await HeldPath.apply({
      services: candidates.map(({ service }) => (this.isNamed ? service.name : undefined)),
      listeners: listeners ?? [],
      tableName: tableNameOf(routes),
      isNamed: routes["table-name"] !== undefined && !isNameTaken,
      adopts: listeners !== undefined,
      build: (numbered, kernel) => {
        this.replace(candidates, numbered);
        return this.intent(kernel);
      },
      spell: this.spell,
      say: (line) => this.log.warn(line),
    });
    this.held = applied;
    this.watchAll();
    this.refresh();
    return applied.changes;
  }

  /** What another process has left that listened at any of these. @throws CommandError */
  findLeft(listeners: readonly string[]): Promise<RetiredPaths | undefined> {
    return RetiredPaths.find(listeners, this.spell);
  }

  /** The upstreams of a pool have changed: their addresses, states or weights. */
  update(pool: string): void {
    const uses = [...this.carried.values()].some((each) => each.service.route.pool.name === pool);
    if (uses) this.refresh();
  }

  /** What a service has counted, and how its connections have ended. */
  countsOf(name: string): ReturnType<CarriedCounts["of"]> {
    return this.counts.of(name, this.carried.get(name)?.watch);
  }

  /** Numbers that belong to the sum of all services. */
  counters(): Float64Array[] {
    return this.counts.all(this.watches);
  }

  /** Writes what was counted of upstreams to where it is read, before it is. */
  publish(): void {
    for (const [slot, values] of this.counts.bySlot(this.watches)) {
      this.pools().board.carried(slot, values);
    }
  }

  /** What another process has counted of a service; false: the kernel does not carry it here. */
  inherit(name: string, counted: Counted): boolean {
    if (this.has(name)) this.counts.inherit(name, counted);
    return this.has(name);
  }

  /** By name, what a process that takes over has to know. */
  counted(): Record<string, Counted> {
    return Object.fromEntries(
      [...this.carried.keys()].map((name) => {
        const { counters, tally } = this.countsOf(name);
        return [name, { counters: sumValues([counters]), tally: [...tally] }];
      }),
    );
  }

  /** Logs at this level from now on; undefined: each service at its own. */
  setLevel(level: LevelName | undefined): void {
    this.level = level;
    for (const each of this.carried.values()) each.watch?.want(this.linesOf(each));
  }

  /** Returns rows of what is open. @throws ScanError */
  query(query: RowQuery): Promise<Rows> {
    return queryFlows(this.watches, query);
  }

  /** Ends connections and sessions; returns how many. @throws ScanError */
  kill(selection: Selection): number {
    return killFlows(this.watches, selection);
  }

  private get watches(): FlowWatch[] {
    const present = [...this.carried.values()].flatMap(({ watch }) => watch ?? []);
    return [...present, ...this.leaving.watches];
  }

  /** Logs the open connections. */
  private report(): void {
    for (const watch of this.watches) watch.report();
  }

  /** How many TCP connections are open. */
  get open(): number {
    return this.watches.reduce((sum, watch) => sum + watch.openStreams(), 0);
  }

  /**
   * Takes no new connections; established ones go on. Rules that are to stay are left as they are,
   * unless another process has the services by now.
   */
  drain(isHanded: boolean): void {
    this.drainedSince = performance.now();
    this.isKept = this.stays && !isHanded;
    if (!this.isKept) this.held?.drain();
  }

  /** Settles when no connection is open any more, or so long after `drain`; ends what is left. */
  async drained(timeoutMs: number): Promise<void> {
    const watches = this.isKept ? this.leaving.watches : this.watches;
    const isOpen = () => watches.some((watch) => watch.openStreams() > 0);
    const deadline = this.drainedSince + timeoutMs;
    while (performance.now() < deadline && isOpen()) await Bun.sleep(pollMs);
    for (const watch of watches) watch.end();
  }

  /** Removes everything; a second time it does nothing. */
  release(): void {
    this.end((held) => held.release());
  }

  /** Nothing can fail any more: from here on rules that are to stay do so, however this ends. */
  serve(): void {
    this.isServing = true;
    this.refresh();
  }

  /** The process ends: removes everything but rules that are to stay. */
  leave(): void {
    this.end((held) => (this.isServing || held.isAdopted ? held.leave() : held.release()));
  }

  /** The kernel carries no service any more. */
  private leaveAll(closes: boolean): void {
    const { held, carried } = this;
    if (held === undefined) return;
    this.carried = new Map();
    this.held = undefined;
    // Before the watches: they end sessions, which would begin anew.
    this.leaving.hold(held);
    this.lose(carried, closes);
  }

  /** Services that are gone, by name. */
  private lose(gone: ReadonlyMap<string, Carried>, closes: boolean): void {
    for (const [name, { watch }] of gone) {
      if (closes) watch?.end();
      if (closes) this.forget(name, watch);
      else if (watch !== undefined) this.leaving.add(name, watch);
    }
  }

  private end(how: (held: HeldPath) => void): void {
    for (const [name, { watch }] of this.carried) this.forget(name, watch);
    this.carried = new Map();
    if (this.held !== undefined) how(this.held);
    this.held = undefined;
    this.leaving.release();
    this.retired?.close();
    this.retired = undefined;
  }

  /** Whether the rules are to stay when the process ends. */
  private get stays(): boolean {
    return this.routes?.["on-exit"] === "keep";
  }

  /**
   * Takes these services for those of now; what is known of those that stay is kept. Returns those
   * that are gone.
   */
  private replace(
    candidates: readonly PathCandidate[],
    numbers: readonly NumberedService[],
  ): ReadonlyMap<string, Carried> {
    const free = [...numbers];
    const before = this.carried;
    const next = candidates.map((candidate): Carried => {
      const known = before.get(candidate.service.name);
      if (known !== undefined && isSame(known, candidate)) return { ...known, ...candidate };
      this.forget(candidate.service.name, known?.watch);
      const fresh = free.shift() as NumberedService;
      return unwatched(candidate, known === undefined ? fresh : { ...fresh, number: known.number });
    });
    this.carried = new Map(next.map((each) => [each.service.name, each]));
    if (this.held !== undefined) this.watchAll();
    return new Map([...before].filter(([name]) => !this.carried.has(name)));
  }

  private forget(name: string, watch: FlowWatch | undefined): void {
    if (watch === undefined) return;
    this.counts.retire(name, watch);
    watch.close();
  }

  private watchAll(): void {
    const all = [...this.carried].map(([name, each]) => {
      if (each.watch !== undefined) return [name, each] as const;
      const watch = this.watchOf(each);
      watch.want(this.linesOf(each));
      watch.start();
      return [name, { ...each, watch }] as const;
    });
    this.carried = new Map(all);
  }

  private watchOf({ service, number, timeouts }: Carried): FlowWatch {
    const { name, route } = service;
    const named = (event: WorkerEvent) => ({ ...event, service: name }) as WorkerEvent;
    return new FlowWatch({
      names: { service: name, pool: route.pool.name },
      owner: { number, timeouts, source: route.source.kind },
      protocol: protocolsOf(service).includes("tcp") ? "tcp" : "udp",
      pool: route.pool,
      print: (events) => void this.log.print(this.isNamed ? events.map(named) : events),
      warn: (text) => this.log.warn(this.isNamed ? `service ${name}: ${text}` : text),
      changed: () => this.refresh(),
    });
  }

  private linesOf({ service: { log } }: PathCandidate): WantedLines {
    const { level, connections, sample } = log;
    return { level: LogLevel[this.level ?? level], connections, sample, counts: this.isCounted };
  }

  /** Assigns the slots anew, sends those that have changed, and ends what has to end after that. */
  refresh(): void {
    const { held } = this;
    if (held === undefined) return;
    this.markLists();
    held.update(this.intent(held.kernel));
    for (const { watch } of this.carried.values()) watch?.endFallen();
  }

  /** Checks and look-ups of names are marked, so that no service here carries them. */
  private markLists(): void {
    const all = [...this.carried.values()];
    for (const { request } of all) {
      const guard = guardMarkOf(request);
      if (guard === undefined) continue;
      for (const { upstreams } of all) {
        const kept = (upstreams.mark ?? 0) & ~guard.mask;
        upstreams.mark = ((kept | guard.value) >>> 0) as Mark;
      }
    }
  }

  private intent(kernel: Kernel): PathIntent {
    const { isNamed, routes = { install: "auto" } } = this;
    const standingOf: StandingOf = (...which) => this.pools().standingOf(...which);
    return pathIntent([...this.carried.values()], { routes, isNamed, kernel, standingOf });
  }
}

/** Whether a service is described as before. */
function isSame({ service: before }: PathCandidate, { service: now }: PathCandidate): boolean {
  return JSON.stringify(before) === JSON.stringify(now);
}
