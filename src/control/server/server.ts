/**
 * What one process serves: the services of a configuration, each in every Worker, with their
 * listeners, their upstreams and the rules that bring them their packets. `forward` is a server of
 * the one service that its flags describe, `run` one of those of a file.
 */

import type { Pool } from "../../config/pool.ts";
import type { Configuration, Service } from "../../config/service.ts";
import { JoinedPorts } from "../../diagnose/snapshot/joined-ports.ts";
import { randomWord } from "../../engine/random.ts";
import { CommandError, exitStatus } from "../../errors.ts";
import { OutboundFlows } from "../../forward/outbound-flows.ts";
import { Log } from "../../log/log.ts";
import { WorkerPool } from "../../workers/pool.ts";
import { LogLevel, type ServiceChange } from "../../workers/protocol.ts";
import { checkForward } from "../connecting.ts";
import { raiseDescriptorLimit } from "../descriptors.ts";
import { HeldCapture } from "../held-capture.ts";
import { InheritedSockets } from "../inherited-sockets.ts";
import { closeSockets, type OpenSocket } from "../listeners.ts";
import { type OwnAddresses, openOwnAddresses } from "../local-addresses.ts";
import type { MetricsListener } from "../metrics/listener.ts";
import { metricsText, openMetrics } from "../metrics/metrics.ts";
import { captureDoubts } from "../no-capture.ts";
import type { User } from "../passwd.ts";
import { loweredBounds, type Sharing } from "../places.ts";
import { Pools, type UpstreamAnswer, type UpstreamRequest } from "../pools/pools.ts";
import type { ProcessIo } from "../process-io.ts";
import { forwardRunning, reducePrivileges, reloadNeeds } from "../reduce-privileges.ts";
import type { IdentityRequest } from "../routes-context.ts";
import { type Served, Supervisor, startWorkers, warnOfRefused } from "../supervisor.ts";
import type { ListeningSocket } from "../systemd/fd-store.ts";
import { ServiceManager } from "../systemd/service-manager.ts";
import { statusLine } from "../systemd/status-line.ts";
import { type Passed, takePassed } from "../systemd/take-passed.ts";
import { checkThreads, workerCount } from "../threads.ts";
import type { UpstreamList } from "../upstreams.ts";
import { captureRequest, socketMark } from "./captures.ts";
import { intentsOf } from "./capturing.ts";
import { type DescriptorShare, descriptorShares } from "./descriptor-shares.ts";
import { nothingToCapture } from "./issues.ts";
import { resolveAll } from "./resolve-all.ts";
import {
  type OpenService,
  openListeners,
  openService,
  type RunningService,
  refuseSelf,
} from "./running-service.ts";
import { drainingLine, logStart } from "./start-lines.ts";
import type { ServerStatus } from "./status.ts";
import { statusOf } from "./status-of.ts";
import { makeTasks, protocolsOf } from "./tasks.ts";
import type { ServerWords } from "./words.ts";

/** How a server is run. */
export interface ServerSettings {
  readonly io: ProcessIo;
  readonly words: ServerWords;
  /** Who the process goes on as once all is set up; undefined: as who it is. */
  readonly user: User | undefined;
  /**
   * There is one service, which nobody has named: the log and the rules name none. It has to have
   * an upstream with an address at the start, and rules that are installed have to do something.
   */
  readonly isNameless: boolean;
}

export class Server {
  readonly log: Log;
  readonly startTime = Date.now();
  private readonly settings: ServerSettings;
  private readonly workers: number;
  readonly pool: WorkerPool;
  private readonly own: OwnAddresses;
  private readonly ownFlows = OutboundFlows.memory(randomWord);
  /** By name. */
  readonly running = new Map<string, RunningService>();
  private readonly lists = new Map<Pool, UpstreamList>();
  private readonly pools: Pools;
  private readonly ports: JoinedPorts;
  private readonly manager: ServiceManager;
  private configuration: Configuration;
  private capture: HeldCapture | undefined;
  private supervisor: Supervisor | undefined;
  private metrics: MetricsListener | undefined;
  private isStopping = false;
  /** Counts the configurations that were applied, from 1. */
  private readonly generation = 1;

  private constructor(
    configuration: Configuration,
    settings: ServerSettings,
    own: OwnAddresses,
    passed: Passed,
  ) {
    const { io, isNameless } = settings;
    this.configuration = configuration;
    this.settings = settings;
    this.own = own;
    this.workers = workerCount(configuration.workers);
    const { level, lossless } = configuration.log;
    const [only] = configuration.services;
    this.log = new Log(io, {
      ...{ ...configuration.log, outlivesReader: true },
      protocol: (isNameless && only && protocolsOf(only)[0]) || "tcp",
      level: LogLevel[(isNameless && only?.log.level) || level],
      namesServices: () => !isNameless && this.configuration.services.length > 1,
    });
    io.onReport(() => this.log.reopen());
    this.log.onLevel = (level) => this.changeLevel(level);
    const warn = (text: string) => this.log.warn(text);
    this.ports = new JoinedPorts({ listeners: [], joined: warn });
    this.manager = new ServiceManager(process.env, process.pid, passed, warn);
    this.pool = new WorkerPool(this.log.print, {
      replaces: true,
      lossless,
      died: (worker) => {
        OutboundFlows.clear(this.ownFlows);
        this.pools.workerDied(worker - 1);
      },
    });
    this.pools = new Pools(this.workers, {
      wake: (pool) => this.updateUsersOf(pool, {}),
      changed: (text, fields) => this.log.note(`[!] ${text}`, { event: "upstream", ...fields }),
      warn: (text) => this.log.warn(text),
    });
  }

  /**
   * Opens what the services need and starts the Workers. Serves until it is stopped.
   * @throws ServiceProblem for a service that contradicts itself or this host; CommandError for
   * what the system refuses. Then nothing is left that was opened.
   */
  static async start(configuration: Configuration, settings: ServerSettings): Promise<Server> {
    const workers = workerCount(configuration.workers);
    checkThreads(workers);
    const services = configuration.services.filter(({ isEnabled }) => isEnabled);
    const installs = configuration.routes.install === "auto";
    const shares = descriptorShares(availableDescriptors(services, workers), services, workers);
    const requests = new Map(
      services.map((each) => [
        each,
        captureRequest(each, configuration.routes, (line) => notice(settings.io, line)),
      ]),
    );
    const doubts = services.flatMap((service) => {
      const request = requests.get(service) ?? {};
      return checkForward(service, installs, request);
    });
    doubts.push(...lowered(services, shares, { configuration, settings, workers }));
    const passed = takePassed(process.env, process.pid, services);
    const inherited = new InheritedSockets(passed.sockets);
    const lists = await resolveAll(services, settings.isNameless);
    const opened: OpenService[] = [];
    let server: Server | undefined;
    try {
      for (const service of services) {
        const sets = openListeners(service, workers, settings.user, inherited);
        const list = lists.get(service.route.pool) as UpstreamList;
        opened.push(openService(service, requests.get(service) ?? {}, sets, list));
      }
      inherited.closeRest();
      const own = openOwnAddresses();
      server = new Server(configuration, settings, own, passed);
      for (const [pool, list] of lists) {
        server.lists.set(pool, list);
        server.pools.put(pool, list);
      }
      for (const each of opened) refuseSelf(each, own.addresses);
      await server.serve(opened, shares, doubts);
      return server;
    } catch (error) {
      closeSockets(opened.flatMap(({ sets }) => sets));
      server?.release();
      for (const list of lists.values()) list.close();
      throw error;
    }
  }

  /** Settles when all Workers have ended. @throws CommandError when they died again and again */
  async finished(): Promise<Served> {
    try {
      return await (this.supervisor as Supervisor).finished();
    } finally {
      this.release();
    }
  }

  /** What it does at the moment. */
  status(): ServerStatus {
    return statusOf({
      ...{ startTime: this.startTime, generation: this.generation, isStopping: this.isStopping },
      ...{ configuration: this.configuration, workers: this.workers, pools: this.pools },
      ...{ running: this.running, pool: this.pool, capture: this.capture },
      lastReload: undefined,
    });
  }

  /** Changes the state or the weight of an upstream, as an administrator asks. */
  setUpstream(pool: string, upstream: string, request: UpstreamRequest): UpstreamAnswer {
    return this.pools.ask(pool, upstream, request);
  }

  /** The metrics of now, as text of `metricsContentType`. */
  metricsText(): string {
    return metricsText(this.status(), this);
  }

  /** Accepts nothing more; ends when the open connections have, or after the drain time-out. */
  stop(): void {
    this.supervisor?.stop("SIGTERM");
  }

  private async serve(
    opened: readonly OpenService[],
    shares: ReadonlyMap<Service, DescriptorShare>,
    doubts: readonly string[],
  ): Promise<void> {
    const { configuration, log, pool, settings } = this;
    const { io, user } = settings;
    const say = (text: string) => log.warn(text);
    const installs = configuration.routes.install === "auto";
    if (!installs) {
      doubts = [...doubts, ...opened.flatMap(({ service, sockets }) => doubtsOf(service, sockets))];
    } else await this.install(opened);
    io.onExit(() => this.capture?.release());
    // Unhandled, it would end the process before the rules are removed.
    if (settings.isNameless && installs) io.onHangup(() => io.exit(exitStatus.hungUp));
    logStart(log, this.capture?.changes ?? [], opened, settings.isNameless);
    for (const each of doubts) say(each);
    const intents = this.capture?.intents.map(({ intent }) => intent) ?? [];
    const marks = new Map(opened.map((each) => [each, socketMark(each.service, intents)]));
    for (const [{ upstreams }, mark] of marks) upstreams.mark = mark;
    this.metrics = openMetrics(configuration.metrics, this);
    // All is open by now, and Workers get what the main thread has.
    const needs = opened.flatMap(({ service }) => forwardRunning(service, installs));
    reducePrivileges({ needs: settings.isNameless ? needs : [...needs, ...reloadNeeds], user });
    this.ports.replace(opened.flatMap(({ sets }) => sets.flat()));
    // Before Workers begin: another program at the port gets their traffic from the start.
    this.ports.watch();
    startWorkers(pool, this.workers, io);
    for (const each of opened) {
      const tasks = makeTasks(
        each.service,
        {
          upstreams: this.pools.upstreamsOf(each.service.route.pool),
          senders: each.senders,
          mark: marks.get(each),
          ownAddresses: this.own.addresses,
          ownFlows: this.ownFlows,
          drainTimeoutMs: configuration.drainTimeoutMs,
          sharing: this.sharingOf(each.service, shares),
          name: settings.isNameless ? undefined : each.service.name,
        },
        each.sets,
      );
      warnOfRefused(tasks.slice(0, 1), log);
      this.running.set(each.service.name, { ...each, id: pool.add(tasks) });
    }
    this.watch();
    this.pools.startChecks(io.workerEntry);
    this.supervisor = new Supervisor(io, pool, log, {
      hasTable: true,
      drainTimeoutMs: () => this.configuration.drainTimeoutMs,
      stopping: () => this.stopping(),
    });
    void pool.turned().then(() => this.started());
  }

  /** All Workers run. */
  private started(): void {
    if (this.isStopping) return;
    this.manager.started({
      workers: this.pool,
      listeners: this.listening,
      status: () => statusLine(this.status()),
    });
  }

  /** All listening sockets, with the names of their services. */
  private get listening(): ListeningSocket[] {
    return [...this.running.values()].flatMap(({ service: { name: service }, sets }) =>
      sets.flat().map(({ fd }) => ({ service, fd })),
    );
  }

  /** Puts in the rules of all services. @throws ServiceProblem, CommandError */
  private async install(opened: readonly OpenService[]): Promise<void> {
    const { settings, configuration } = this;
    const isNamed = !settings.isNameless;
    const build = (identified: Parameters<typeof intentsOf>[1]) =>
      intentsOf(opened, identified, isNamed);
    const request = identityOf(configuration);
    if (build({ request, takenBits: 0 }).length === 0) {
      const [only] = opened;
      if (isNamed || only === undefined) return;
      throw nothingToCapture(only.service);
    }
    const say = (text: string) => this.log.warn(text);
    this.capture = await HeldCapture.apply(request, build, settings.io, say);
  }

  private sharingOf(service: Service, shares: ReadonlyMap<Service, DescriptorShare>): Sharing {
    const descriptors = shares.get(service) as DescriptorShare;
    return { limits: service.limits, workers: this.workers, descriptors };
  }

  /** Tells the Workers of upstreams and own addresses as they change. */
  private watch(): void {
    for (const [pool, list] of this.lists) {
      list.watch(
        () => this.updateUsersOf(pool, { route: { upstreams: this.pools.refresh(pool) } }),
        (text) => this.log.warn(this.settings.isNameless ? text : `pool ${pool.name}: ${text}`),
      );
    }
    this.own.watch((ownAddresses) => {
      for (const { id } of this.running.values()) this.pool.update(id, { route: { ownAddresses } });
    });
  }

  /** Sets the level of all services; undefined: each has its own again. */
  private changeLevel(level: number | undefined): void {
    for (const { id, service } of this.running.values()) {
      this.pool.update(id, { log: { level: level ?? LogLevel[service.log.level] } });
    }
  }

  /** Changes the services that have a pool. */
  private updateUsersOf({ name }: Pool, change: ServiceChange): void {
    for (const { id, service } of this.running.values()) {
      if (service.route.pool.name === name) this.pool.update(id, change);
    }
  }

  private stopping(): void {
    this.isStopping = true;
    this.manager.stopping();
    this.capture?.drain();
    const line = drainingLine(this.pool.counters().active, this.configuration.drainTimeoutMs);
    if (line !== undefined) this.log.warn(line);
  }

  /** Gives back all that is not the Workers'. A second time it does nothing. */
  private release(): void {
    this.metrics?.close();
    this.ports.close();
    this.manager.close();
    this.own.close();
    for (const list of this.lists.values()) list.close();
    this.pools.stopChecks();
    this.capture?.release();
  }
}

/** What all services together may have, without their listeners. */
function availableDescriptors(services: readonly Service[], workers: number): number {
  const listeners = services.reduce((sum, { listen }) => sum + listen.length, 0) * workers;
  return Math.max(1, raiseDescriptorLimit() - listeners);
}

/** On standard error: there is no log yet. */
function notice({ stderr }: ProcessIo, line: string): void {
  void stderr.write(`tproxy: ${line}\n`);
}

interface Surroundings {
  readonly configuration: Configuration;
  readonly settings: ServerSettings;
  readonly workers: number;
}

/** A line for each bound that is lowered. @throws CommandError with them, if it is strict */
function lowered(
  services: readonly Service[],
  shares: ReadonlyMap<Service, DescriptorShare>,
  { configuration, settings: { words }, workers }: Surroundings,
): string[] {
  const lines = services.flatMap((service) => {
    const descriptors = shares.get(service) as DescriptorShare;
    const sharing = { limits: service.limits, workers, descriptors };
    return loweredBounds(sharing, protocolsOf(service)).map((each) =>
      words.lowered(service.name, each),
    );
  });
  if (lines.length === 0 || !configuration.strictLimits) return lines;
  throw new CommandError(`Cannot start by ${words.strictLimits}: ${lines.join("; ")}`);
}

function doubtsOf(service: Service, sockets: readonly OpenSocket[]): string[] {
  return captureDoubts(
    service,
    sockets.map(({ local }) => local),
  );
}

function identityOf({ routes }: Configuration): IdentityRequest {
  const { mark, table, priority } = routes;
  return { mark, table, priority, tableName: routes["table-name"] } as IdentityRequest;
}
