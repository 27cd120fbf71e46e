/**
 * The services of a process that the kernel carries: their rules in one table, their slots, and
 * what is known of their connections.
 */

import type { Mark } from "../../../ffi/types.ts";
import type { PathIntent } from "../../capture/kernel-path/intent.ts";
import type { Kernel } from "../../capture/live/kernel.ts";
import type { Configuration } from "../../config/service.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import type { Log } from "../../log/log.ts";
import { type Counters, sumValues } from "../../workers/counters.ts";
import { LogLevel, type WorkerEvent } from "../../workers/protocol.ts";
import type { RowQuery } from "../../workers/query.ts";
import type { Rows, Selection } from "../../workers/scan-requests.ts";
import type { ServerSettings } from "../server/settings.ts";
import type { PathCandidate } from "./choose-path.ts";
import { guardMarkOf, type StandingOf } from "./describe-service.ts";
import { killFlows, queryFlows } from "./flow-scans.ts";
import { FlowWatch } from "./flow-watch.ts";
import { HeldPath } from "./held-path.ts";
import { type Carried, pathIntent, unwatched } from "./path-intent.ts";

const pollMs = 100;

/** What has to be known to install the rules of the kernel path. */
export interface InstallOptions {
  readonly routes: Configuration["routes"];
  /** Another table of this process, or of the one that hands over to it, has the name. */
  readonly isNameTaken: boolean;
}

export class CarriedServices {
  private readonly log: Pick<Log, "print" | "warn">;
  /** The log and the rules name the services. */
  private readonly isNamed: boolean;
  private readonly spell: SettingWords;
  private readonly standingOf: StandingOf;
  private held: HeldPath | undefined;
  private routes: Configuration["routes"] | undefined;
  /** On the clock of `performance.now()`. */
  private drainedSince = 0;
  /** By name. */
  private carried: ReadonlyMap<string, Carried> = new Map();

  constructor(
    { io, words, isNameless }: Pick<ServerSettings, "io" | "words" | "isNameless">,
    log: Pick<Log, "print" | "warn">,
    standingOf: StandingOf,
  ) {
    this.log = log;
    this.isNamed = !isNameless;
    this.spell = words.setting;
    this.standingOf = standingOf;
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
    { routes, isNameTaken }: InstallOptions,
  ): Promise<readonly string[]> {
    this.routes = routes;
    if (candidates.length === 0) {
      this.release();
      return [];
    }
    const { held } = this;
    if (held !== undefined) {
      this.replace(candidates, held.freeNumbers(candidates.length));
      this.refresh();
      return [];
    }
    const applied = await HeldPath.apply({
      services: candidates.length,
      build: (numbers, kernel) => {
        this.replace(candidates, numbers);
        return this.intent(kernel);
      },
      isNamed: routes["table-name"] !== undefined && !isNameTaken,
      spell: this.spell,
      say: (line) => this.log.warn(line),
    });
    this.held = applied;
    this.watchAll();
    this.refresh();
    return applied.changes;
  }

  /** The upstreams of a pool have changed: their addresses, states or weights. */
  update(pool: string): void {
    const uses = [...this.carried.values()].some((each) => each.service.route.pool.name === pool);
    if (uses) this.refresh();
  }

  /** What a service counts; nothing where the kernel does not carry it. */
  countersOf(name: string): Counters {
    return this.carried.get(name)?.watch?.counters() ?? sumValues([]);
  }

  /** What the services count, one after the other. */
  counters(): Counters[] {
    return [...this.carried.values()].flatMap(({ watch }) => watch?.counters() ?? []);
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
    return [...this.carried.values()].flatMap(({ watch }) => watch ?? []);
  }

  /** Logs the open connections. */
  private report(): void {
    for (const { watch } of this.carried.values()) watch?.report();
  }

  /** How many TCP connections are open. */
  get open(): number {
    return [...this.carried.values()].reduce(
      (sum, { watch }) => sum + (watch?.openStreams() ?? 0),
      0,
    );
  }

  /** Takes no new connections; established ones go on. */
  drain(): void {
    this.drainedSince = performance.now();
    this.held?.drain();
  }

  /** Settles when no connection is open any more, or so long after `drain`; ends what is left. */
  async drained(timeoutMs: number): Promise<void> {
    if (this.held === undefined) return;
    const deadline = this.drainedSince + timeoutMs;
    while (performance.now() < deadline && this.open > 0) await Bun.sleep(pollMs);
    for (const { watch } of this.carried.values()) watch?.end();
  }

  /** Removes everything; a second time it does nothing. */
  release(): void {
    for (const { watch } of this.carried.values()) watch?.close();
    this.carried = new Map();
    this.held?.release();
    this.held = undefined;
  }

  /** Takes these services for those of now; what is known of those that stay is kept. */
  private replace(candidates: readonly PathCandidate[], numbers: readonly number[]): void {
    const free = [...numbers];
    const before = this.carried;
    const next = candidates.map((candidate): Carried => {
      const known = before.get(candidate.service.name);
      if (known !== undefined && isSame(known, candidate)) return { ...known, ...candidate };
      known?.watch?.close();
      return unwatched(candidate, known?.number ?? (free.shift() as number));
    });
    this.carried = new Map(next.map((each) => [each.service.name, each]));
    for (const [name, { watch }] of before) if (!this.carried.has(name)) watch?.close();
    if (this.held !== undefined) this.watchAll();
  }

  private watchAll(): void {
    const all = [...this.carried].map(([name, each]) => {
      if (each.watch !== undefined) return [name, each] as const;
      const watch = this.watchOf(each);
      watch.start();
      return [name, { ...each, watch }] as const;
    });
    this.carried = new Map(all);
  }

  private watchOf({ service, number, timeouts }: Carried): FlowWatch {
    const { name, log, route } = service;
    const named = (event: WorkerEvent) => ({ ...event, service: name }) as WorkerEvent;
    return new FlowWatch({
      names: { service: name, pool: route.pool.name },
      service: { number, timeouts, source: route.source.kind, level: LogLevel[log.level] },
      pool: route.pool,
      print: (events) => void this.log.print(this.isNamed ? events.map(named) : events),
      warn: (text) => this.log.warn(this.isNamed ? `service ${name}: ${text}` : text),
      changed: () => this.refresh(),
    });
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
    const { isNamed, standingOf, routes = { install: "auto" } } = this;
    return pathIntent([...this.carried.values()], { routes, isNamed, kernel, standingOf });
  }
}

/** Whether a service is described as before. */
function isSame({ service: before }: PathCandidate, { service: now }: PathCandidate): boolean {
  return JSON.stringify(before) === JSON.stringify(now);
}
