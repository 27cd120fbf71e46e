/**
 * A server between its predecessor and its successor: what the service manager or an old process
 * hands to it at the start, and what it hands to a new process at an upgrade.
 */

import type { Service } from "../../config/service.ts";
import type { JoinedPorts } from "../../diagnose/snapshot/joined-ports.ts";
import type { Log } from "../../log/log.ts";
import { version } from "../../version.ts";
import type { Counted } from "../../workers/inherited-counts.ts";
import type { Packed } from "../../workers/moved.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { TakenCapture } from "../held-capture.ts";
import { InheritedSockets, inspectSocket } from "../inherited-sockets.ts";
import type { CarriedServices } from "../kernel-path/carried-services.ts";
import type { Pools } from "../pools/pools.ts";
import type { ListeningSocket } from "../systemd/fd-store.ts";
import { ServiceManager } from "../systemd/service-manager.ts";
import { statusLine } from "../systemd/status-line.ts";
import { type Passed, takePassed } from "../systemd/take-passed.ts";
import { Adopter, type Place } from "../upgrade/adopter.ts";
import type { UpgradeResult } from "../upgrade/old.ts";
import { ServerUpgrade, type Upgradable } from "../upgrade/server-upgrade.ts";
import { readServerState, type ServerState } from "../upgrade/state.ts";
import { type OldEnd, Takeover } from "../upgrade/takeover.ts";
import type { InstalledRules } from "./installed-rules.ts";
import { ServiceProblem } from "./issues.ts";
import { processTotals, type TotalsParts } from "./process-totals.ts";
import { type RunTimeParts, takeRunTime } from "./run-time.ts";
import type { RunningService } from "./running-service.ts";
import type { ServerStatus } from "./status.ts";
import type { ServerWords } from "./words.ts";

/** The server, as far as it concerns others than itself. */
export interface Successive extends RunTimeParts, TotalsParts {
  startTime: number;
  readonly log: Log;
  readonly pool: WorkerPool;
  readonly rules: InstalledRules;
  readonly paths: Pick<CarriedServices, "counted" | "inherit">;
  readonly pools: Pick<Pools, "handOver" | "counted" | "inherit">;
  readonly ports: Pick<JoinedPorts, "watch" | "close">;
  readonly running: ReadonlyMap<string, RunningService>;
  status(): ServerStatus;
  stop(): void;
  /** Opens the addresses that only one process can have; a second time it does nothing. */
  openViews(): Promise<void>;
  closeViews(): Promise<void>;
}

/** The process before this one has moved its connections by then. */
const movedWithinMs = 20_000;

/** The state that this process begins with. */
export interface Inheritance {
  readonly sockets: InheritedSockets;
  readonly passed: Passed;
  readonly takeover: Takeover | undefined;
  readonly state: ServerState;
}

/**
 * Takes what the service manager has passed, or all of an old process that hands over.
 * @throws CommandError for a passed socket that no service wants, or an old process that has ended
 */
export async function inherit(services: readonly Service[]): Promise<Inheritance> {
  const passed = takePassed(process.env, process.pid, services);
  const takeover = await Takeover.begin(process.env, version);
  const state = readServerState(takeover?.parts ?? {});
  if (takeover === undefined) {
    return { sockets: new InheritedSockets(passed.sockets), passed, takeover, state };
  }
  const sockets = takeover.listeners.flatMap((fd) => {
    const socket = inspectSocket(fd);
    return typeof socket === "string" ? [] : [socket];
  });
  const { kept, owned } = state.manager;
  const taken = { sockets, stored: new Map(kept), owned: new Set(owned), useless: [] };
  return { sockets: new InheritedSockets(sockets), passed: taken, takeover, state };
}

export class Succession implements Upgradable {
  readonly manager: ServiceManager;
  private readonly server: Successive;
  private readonly takeover: Takeover | undefined;
  private readonly upgrade: ServerUpgrade;
  private isStopping = false;
  private isBeginning = false;

  constructor(server: Successive, { passed, takeover, state }: Inheritance) {
    this.server = server;
    this.takeover = takeover;
    this.upgrade = new ServerUpgrade(this);
    const warn = (text: string) => server.log.warn(text);
    this.manager = new ServiceManager(process.env, process.pid, passed, warn);
    if (takeover === undefined) return;
    if (state.startTime !== undefined) server.startTime = state.startTime;
    takeRunTime(server, state.runTime);
    takeover.onTotals = ({ upstreams, totals }) => {
      server.pools.inherit(upstreams ?? []);
      if (totals !== undefined) server.pool.inherited.totals = totals;
    };
    takeover.onEnded = (end) => this.oldHasEnded(takeover.oldPid, end);
    // Until the old process has stopped reading, its datagrams are its own.
    server.pool.suspend(["udp"]);
    const adopter = new Adopter(server.pool.moves);
    takeover.onBatch = (rows, fds) => adopter.adopt(rows, fds, (row) => this.placeOf(row));
  }

  /** Where a connection or session of the old process goes; undefined: nowhere. */
  private placeOf({ service }: Packed): Place | undefined {
    const running = this.isStopping ? undefined : this.server.running.get(service);
    return running && { service: running.id };
  }

  get isTakingOver(): boolean {
    return this.takeover !== undefined;
  }

  /** The rules of the old process. */
  get capture(): TakenCapture | undefined {
    return this.takeover?.capture;
  }

  /** All is open. Settles once all Workers run, and this process alone receives what is new. */
  async started(): Promise<void> {
    const { server, takeover, manager } = this;
    await server.pool.turned();
    if (takeover !== undefined) {
      await takeover.ready(server.rules.isInstalled);
      takeover.onCounted = (all) => this.count(all);
      this.count(takeover.counted);
      server.pool.suspend([]);
      await this.openViews();
    }
    if (this.isStopping) return;
    manager.started({
      workers: server.pool,
      listeners: () => this.listening,
      status: () => statusLine(server.status()),
    });
  }

  /**
   * Hands over to this program as it is on the disk now, or to another one. Settles once that is
   * ready, or it has come to nothing. What the process before this one has open comes here first.
   */
  async begin(program?: string): Promise<UpgradeResult> {
    if (this.isBeginning) return { ok: false, lines: ["an upgrade is under way"] };
    this.isBeginning = true;
    await Promise.race([this.takeover?.moved, Bun.sleep(movedWithinMs)]);
    this.isBeginning = false;
    const result = await this.upgrade.begin(program);
    if (result.ok) {
      const { pid, version } = result;
      const text = `upgrade: process ${pid} serves now, and gets what is open`;
      this.server.log.note(`[+] ${text}`, { event: "upgrade", pid, version });
    }
    return result;
  }

  /** The server stops. Returns whether it had handed over, so that the rules are another's. */
  stopping(): boolean {
    if (!this.isStopping) {
      this.isStopping = true;
      this.upgrade.stopping();
      this.takeover?.stopOld();
      if (!this.upgrade.isHanded) this.manager.stopping();
    }
    return this.upgrade.isHanded;
  }

  /** Settles once an old process has ended what it had open, at most after so long. */
  async oldEnded(ms: number): Promise<void> {
    if (this.takeover !== undefined) await Promise.race([this.takeover.ended, Bun.sleep(ms)]);
  }

  /** Has the old process go on: this one cannot be started. */
  async failed(error: unknown, words: ServerWords): Promise<void> {
    const text = error instanceof Error ? error.message : String(error);
    await this.takeover?.failed([error instanceof ServiceProblem ? words.problem(error) : text]);
  }

  close(): void {
    this.upgrade.close();
    this.takeover?.close();
    this.manager.close();
  }

  /** All listening sockets, with the names of their services. */
  get listening(): ListeningSocket[] {
    return [...this.server.running.values()].flatMap(({ service: { name: service }, sets }) =>
      sets.flat().map(({ fd }) => ({ service, fd })),
    );
  }

  get pool(): WorkerPool {
    return this.server.pool;
  }

  get rules(): InstalledRules {
    return this.server.rules;
  }

  get pools(): Pick<Pools, "handOver" | "counted"> {
    return this.server.pools;
  }

  get runTime(): RunTimeParts {
    return this.server;
  }

  /** Why nothing may be changed here now; undefined: it may. */
  get obstacle(): string | undefined {
    return this.upgrade.obstacle;
  }

  get startTime(): number {
    return this.server.startTime;
  }

  counted(names?: ReadonlySet<string>): Record<string, Counted> {
    const { pool, running, paths } = this.server;
    const all = [...running].filter(([name]) => names?.has(name) !== false);
    const relayed = all.map(([name, { id }]) => [name, pool.counted(id)]);
    // Nothing of a service that the kernel carries is ever on its way to another process.
    return { ...Object.fromEntries(relayed), ...(names === undefined ? paths.counted() : {}) };
  }

  async closeViews(): Promise<void> {
    this.server.ports.close();
    await this.server.closeViews();
  }

  async openViews(): Promise<void> {
    this.server.ports.watch();
    try {
      await this.server.openViews();
    } catch (error) {
      this.warn((error as Error).message);
    }
  }

  moved(connections: number, ms: number): void {
    const many = connections === 1 ? "1 connection has" : `${connections} connections have`;
    const text = `[+] upgrade: ${many} moved in ${Math.round(ms)} ms`;
    this.server.log.note(text, { event: "moved", connections, ms: Math.round(ms) });
  }

  stop(): void {
    this.server.stop();
  }

  warn(text: string): void {
    this.server.log.warn(text);
  }

  totals(): Record<string, number> {
    return processTotals(this.server);
  }

  private oldHasEnded(pid: number, { reason, open }: OldEnd): void {
    const { log, pools } = this.server;
    pools.inherit(undefined);
    const left = open === 0 ? "nothing open" : `${open} of its connections and sessions open`;
    if (reason === undefined && open === 0) {
      const text = `[+] upgrade: the old process ${pid} has ended, with nothing open`;
      return log.note(text, { event: "upgrade-end", pid, open });
    }
    const how = reason === undefined ? "" : `, without a word (was it killed?): ${reason}`;
    log.warn(`upgrade: the old process ${pid} has ended with ${left}${how}`);
  }

  /** Adds the counts of the old process to those of the services of the same names. */
  private count(all: Readonly<Record<string, Counted>>): void {
    const { pool, paths } = this.server;
    for (const [name, counted] of Object.entries(all)) {
      if (!paths.inherit(name, counted)) pool.inherited.set(name, counted);
    }
  }
}
