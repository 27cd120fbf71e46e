/**
 * What one process serves: the services of a configuration, each in every Worker, with their
 * listeners, their upstreams and the rules that bring them their packets. `forward` is a server of
 * the one service that its flags describe, `run` one of those of a file.
 */

import { type Change, difference } from "../../config/diff.ts";
import type { Pool } from "../../config/pool.ts";
import type { Configuration } from "../../config/service.ts";
import { JoinedPorts } from "../../diagnose/snapshot/joined-ports.ts";
import { reloadWaitMs, removedListenerMs } from "../../engine/limits.ts";
import { randomWord } from "../../engine/random.ts";
import { exitStatus } from "../../errors.ts";
import { OutboundFlows } from "../../forward/outbound-flows.ts";
import type { Log } from "../../log/log.ts";
import { WorkerPool } from "../../workers/pool.ts";
import { LogLevel, type ServiceChange } from "../../workers/protocol.ts";
import { CarriedServices } from "../kernel-path/carried-services.ts";
import { type OwnAddresses, openOwnAddresses } from "../local-addresses.ts";
import { metricsText } from "../metrics/metrics.ts";
import { carriedNeeds } from "../needs.ts";
import { Pools, type UpstreamAnswer, type UpstreamRequest } from "../pools/pools.ts";
import { forwardRunning, reducePrivileges, reloadNeeds } from "../reduce-privileges.ts";
import { type Served, Supervisor, startWorkers } from "../supervisor.ts";
import { statusLine } from "../systemd/status-line.ts";
import { checkThreads, workerCount } from "../threads.ts";
import type { UpgradeResult } from "../upgrade/old.ts";
import { ChangeQueue } from "./change-queue.ts";
import { handOver } from "./hand-over.ts";
import { installAll, removeAll } from "./install-all.ts";
import { InstalledRules } from "./installed-rules.ts";
import { UpgradeNeeded } from "./issues.ts";
import {
  check,
  enabledServices,
  type PoolInUse,
  type Prepared,
  prepare,
  type Surroundings,
} from "./preparing.ts";
import type { RunningService } from "./running-service.ts";
import { serverLog } from "./server-log.ts";
import type { ApplyOptions, ServerSettings } from "./settings.ts";
import { drainingLine, lateLines, logCarried, logOpened, logStart } from "./start-lines.ts";
import type { HeldState, ReloadStatus, ServerStatus } from "./status.ts";
import { type ServerParts, statusOf } from "./status-of.ts";
import { type Inheritance, inherit, Succession } from "./succession.ts";
import { Views } from "./views.ts";

export class Server implements ServerParts {
  readonly log: Log;
  startTime = Date.now();
  lastReload: ReloadStatus | undefined;
  private readonly settings: ServerSettings;
  readonly workers: number;
  readonly pool: WorkerPool;
  private readonly own: OwnAddresses;
  private readonly ownFlows = OutboundFlows.memory(randomWord);
  /** By name. */
  readonly running = new Map<string, RunningService>();
  readonly pools: Pools;
  /** By the name of a pool, where its addresses come from. */
  private lists: ReadonlyMap<string, PoolInUse> = new Map();
  /** By name: services that an administrator has taken out. */
  readonly held = new Map<string, HeldState>();
  /** Names of services that are gone, and have connections. */
  readonly leaving = new Set<string>();
  readonly ports: JoinedPorts;
  private readonly succession: Succession;
  configuration: Configuration;
  readonly rules: InstalledRules;
  readonly paths: CarriedServices;
  private supervisor: Supervisor | undefined;
  private readonly views: Views;
  isStopping = false;
  private vacantAt = 0;
  /** Counts the configurations that were applied, from 1. */
  generation = 1;
  private readonly changes = new ChangeQueue(() => this.obstacle);

  private constructor(
    configuration: Configuration,
    settings: ServerSettings,
    own: OwnAddresses,
    inheritance: Inheritance,
  ) {
    const { io, isNameless } = settings;
    this.configuration = configuration;
    this.settings = settings;
    this.own = own;
    this.workers = workerCount(configuration.workers);
    this.log = serverLog(io, {
      configuration: () => this.configuration,
      generation: () => this.generation,
      isNameless,
    });
    this.log.onLevel = () => this.changeLevel();
    const warn = (text: string) => this.log.warn(text);
    const { generation, pools } = inheritance.state;
    this.ports = new JoinedPorts({ listeners: [], joined: warn });
    this.paths = new CarriedServices(settings, this.log, () => this.pools);
    this.rules = new InstalledRules(settings, warn);
    this.pool = new WorkerPool(this.log.print, {
      ...{ replaces: true, lossless: configuration.log.lossless, generation },
      others: () => this.paths.counters(),
      died: (worker) => {
        OutboundFlows.clear(this.ownFlows);
        this.pools.workerDied(worker - 1);
      },
    });
    const wake = (pool: Pool) => this.updateUsersOf(pool, {});
    const changed = (text: string, fields: object) =>
      this.log.note(`[!] ${text}`, { event: "upstream", ...fields });
    const shifted = ({ name }: Pool) => this.paths.update(name);
    this.pools = new Pools(this.workers, { wake, shifted, changed, warn }, pools);
    this.views = new Views(this, settings);
    this.succession = new Succession(this, inheritance);
    io.onUpgrade(() => void this.upgrade());
  }

  /**
   * Opens what the services need and starts the Workers. Serves until it is stopped.
   * @throws ServiceProblem for a service that contradicts itself or this host; CommandError for
   * what the system refuses. Then nothing is left that was opened.
   */
  static async start(configuration: Configuration, settings: ServerSettings): Promise<Server> {
    checkThreads(workerCount(configuration.workers));
    const services = enabledServices(configuration);
    const inheritance = await inherit(services);
    const { sockets: inherited } = inheritance;
    const server = new Server(configuration, settings, openOwnAddresses(), inheritance);
    try {
      const enabled = enabledServices(configuration, server.held);
      const prepared = await prepare(configuration, enabled, { ...server.around, inherited });
      inherited.closeRest();
      await server.begin(prepared);
      return server;
    } catch (error) {
      await server.succession.failed(error, settings.words);
      server.release();
      throw error;
    }
  }

  /** Settles when all Workers have ended. @throws CommandError when they died again and again */
  async finished(): Promise<Served> {
    try {
      return await (this.supervisor as Supervisor).finished();
    } finally {
      await this.succession.oldEnded(this.configuration.drainTimeoutMs);
      await this.paths.drained(this.configuration.drainTimeoutMs);
      this.release();
    }
  }

  /** Its state at this moment. */
  status(): ServerStatus {
    return statusOf(this);
  }

  /** Changes the state or the weight of an upstream, as an administrator asks. */
  setUpstream(pool: string, upstream: string, request: UpstreamRequest): UpstreamAnswer {
    return this.pools.ask(pool, upstream, request);
  }

  /** The metrics of now, as text of `metricsContentType`. */
  metricsText(): Uint8Array<ArrayBuffer> {
    return metricsText(this);
  }

  /** Hands over to this program as it is on the disk now, or to another one. */
  async upgrade(program?: string): Promise<UpgradeResult> {
    // Not amid a change. Its end is not awaited there: changes meanwhile are rejected.
    const begun = await this.changes.exclusively(async () => [this.succession.begin(program)]);
    return begun[0] as UpgradeResult | Promise<UpgradeResult>;
  }

  /** Why nothing may be changed now; undefined: it may. */
  get obstacle(): string | undefined {
    return this.succession.obstacle;
  }

  /** Accepts nothing more; ends when the open connections have, or after the drain time-out. */
  stop(): void {
    this.supervisor?.stop("SIGTERM");
  }

  /**
   * What `next` would change, and whether it could be taken over, as far as that shows without
   * opening anything. @throws UpgradeNeeded, ServiceProblem, CommandError
   */
  compare(next: Configuration): readonly Change[] {
    const changes = this.changesTo(next);
    if (changes.length > 0) check(next, enabledServices(next, this.held), this.settings);
    return changes;
  }

  private changesTo(next: Configuration): readonly Change[] {
    const { changes, upgrades } = difference(this.configuration.settings, next.settings);
    if (upgrades.length > 0) throw new UpgradeNeeded(upgrades);
    return changes;
  }

  /**
   * Takes over another configuration: all of it or, where it throws, nothing. Connections of
   * services that stay are not touched. Settles when the last Worker has taken it over; the
   * changes, none if there are none.
   * @throws UpgradeNeeded for what a running process cannot change; ServiceProblem, CommandError
   */
  apply(next: Configuration, options: ApplyOptions = {}): Promise<readonly Change[]> {
    return this.changes.change(async () => {
      const changes = this.changesTo(next);
      if (changes.length === 0 || this.isStopping) return changes;
      this.succession.manager.reloading();
      try {
        await this.become(next, options);
      } finally {
        this.succession.manager.reloaded(statusLine(this.status()));
      }
      return changes;
    });
  }

  /**
   * Takes a service out, with its rules and listeners, or puts it back. Its connections go on; of
   * one that is `down` they are reset. False if the configuration has no such service.
   * @throws CommandError for what the system refuses; then nothing was changed
   */
  setServiceState(name: string, state: "ready" | HeldState): Promise<boolean> {
    return this.changes.change(async () => {
      if (!this.configuration.services.some((each) => each.name === name)) return false;
      const before = this.held.get(name);
      if (state === "ready") this.held.delete(name);
      else this.held.set(name, state);
      try {
        await this.become(this.configuration, { closeRemoved: state === "down" });
      } catch (error) {
        if (before === undefined) this.held.delete(name);
        else this.held.set(name, before);
        throw error;
      }
      return true;
    });
  }

  private get around(): Surroundings {
    const { settings, workers, running, lists, own } = this;
    return { settings, workers, running, lists, ownAddresses: own.addresses };
  }

  /** The start: what was prepared is put in place, and the Workers begin. */
  private async begin(prepared: Prepared): Promise<void> {
    const { log, pool, settings } = this;
    const { io, user, isNameless } = settings;
    const { services } = prepared;
    const { isTakingOver } = this.succession;
    const installs = this.configuration.routes.install === "auto";
    // Before the kernel carries anything: another process may have handed over what is drained.
    for (const { pool: each, list } of prepared.lists.values()) this.pools.put(each, list);
    try {
      const changes = await installAll(this, this.configuration, prepared, this.succession);
      io.onExit(() => removeAll(this));
      // Unhandled, it would end the process before the rules are removed.
      if (isNameless && installs) io.onHangup(() => io.exit(exitStatus.hungUp));
      logStart(log, changes, services, isNameless);
      logCarried(log, prepared.carried, isNameless);
      for (const each of prepared.doubts) log.warn(each);
      if (!isTakingOver) await this.openViews();
      // All is open by now, and Workers get what the main thread has.
      const needs = services.flatMap(({ service }) => forwardRunning(service, installs));
      needs.push(...carriedNeeds(prepared.carried));
      reducePrivileges({ needs: isNameless ? needs : [...needs, ...reloadNeeds], user });
      this.ports.replace(services.flatMap(({ sets }) => sets.flat()));
      // Before Workers begin: another program at the port gets their traffic from the start.
      if (!isTakingOver) this.ports.watch();
      startWorkers(pool, this.workers, io);
    } catch (error) {
      prepared.discard();
      throw error;
    }
    this.handOver(prepared, {});
    this.own.watch((ownAddresses) => {
      for (const { id } of this.running.values()) pool.update(id, { route: { ownAddresses } });
    });
    this.pools.startChecks(io.workerEntry);
    this.supervisor = new Supervisor(io, pool, log, {
      hasTable: true,
      drainTimeoutMs: () => this.configuration.drainTimeoutMs,
      stopping: () => this.stopping(),
    });
    void this.succession.started();
  }

  /** Opens the addresses that only one process can have. A second time it does nothing. */
  openViews(): Promise<void> {
    return this.views.open();
  }

  /** Gives them up. */
  closeViews(): Promise<void> {
    return this.views.close();
  }

  /** Goes on as `next` describes it. @throws ServiceProblem, CommandError: nothing was changed */
  private async become(next: Configuration, options: ApplyOptions): Promise<void> {
    const { log, pool } = this;
    // Listeners that the last change has removed may be wanted again: until then they are open.
    await Bun.sleep(Math.max(0, this.vacantAt - performance.now()));
    const prepared = await prepare(next, enabledServices(next, this.held), this.around);
    try {
      logStart(log, await installAll(this, next, prepared, options), [], false);
      prepared.leaving.replace();
    } catch (error) {
      prepared.discard();
      throw error;
    }
    const before = [...this.running.values()].flatMap(({ sets }) => sets.flat());
    this.configuration = next;
    this.generation++;
    this.handOver(prepared, options);
    const behind = await pool.turned(reloadWaitMs);
    logOpened(log, before, [...this.running.values()], [...lateLines(behind), ...prepared.doubts]);
    if (!prepared.leaving.isEmpty) this.vacantAt = performance.now() + 2 * removedListenerMs;
    this.ports.replace([...this.running.values()].flatMap(({ sets }) => sets.flat()));
    this.succession.manager.listening(this.succession.listening);
  }

  /** From here on nothing can fail: the Workers get everything that is prepared. */
  private handOver(prepared: Prepared, { closeRemoved = false }: ApplyOptions): void {
    const before = this.lists;
    this.lists = prepared.lists;
    for (const [name, { list }] of before) {
      if (prepared.lists.get(name)?.list !== list) list.close();
      if (!prepared.lists.has(name)) this.pools.remove(name);
    }
    for (const [name, used] of prepared.lists) {
      this.pools.put(used.pool, used.list);
      if (before.get(name)?.list !== used.list) this.watch(used);
    }
    const { running, pool, pools, workers, leaving, configuration, own, ownFlows } = this;
    handOver(prepared, closeRemoved, {
      ...{ running, pool, pools, workers, leaving, ownFlows, log: this.log },
      intents: this.rules.intents,
      ownAddresses: own.addresses,
      drainTimeoutMs: configuration.drainTimeoutMs,
      isNamed: !this.settings.isNameless,
    });
    this.paths.serve();
    if (this.log.level !== undefined) this.changeLevel();
    this.pools.check();
  }

  /** Tells the Workers of a pool's upstreams as they change. */
  private watch({ pool, list }: PoolInUse): void {
    list.watch(
      () => {
        this.updateUsersOf(pool, { route: { upstreams: this.pools.refresh(pool) } });
        this.paths.update(pool.name);
      },
      (text) => this.log.warn(this.settings.isNameless ? text : `pool ${pool.name}: ${text}`),
    );
  }

  /** Gives services the level that was set at run time, or their own again. */
  private changeLevel(): void {
    this.paths.setLevel(this.log.level);
    for (const { id, service } of this.running.values()) {
      this.pool.update(id, { log: { level: LogLevel[this.log.level ?? service.log.level] } });
    }
  }

  /** Changes the services that have a pool. */
  private updateUsersOf({ name }: Pool, change: ServiceChange): void {
    for (const { id, service } of this.running.values()) {
      if (service.route.pool.name === name) this.pool.update(id, change);
    }
  }

  private stopping(): void {
    this.pools.stopChecks();
    this.isStopping = true;
    const isHanded = this.succession.stopping();
    if (!isHanded) this.rules.drain();
    this.paths.drain(isHanded);
    const line = drainingLine(this.pool.counters().active, this.configuration.drainTimeoutMs);
    if (line !== undefined) this.log.warn(line);
  }

  /** Gives back all that is not the Workers'. A second time it does nothing. */
  private release(): void {
    void this.views.close();
    this.ports.close();
    this.succession.close();
    this.own.close();
    for (const { list } of this.lists.values()) list.close();
    this.pools.stopChecks();
    removeAll(this);
  }
}
