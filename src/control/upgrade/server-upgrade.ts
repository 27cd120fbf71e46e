/** A server that hands over to a new process, and serves again if that does not last. */

import type { Counted } from "../../workers/inherited-counts.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { Pools } from "../pools/pools.ts";
import type { InstalledRules } from "../server/installed-rules.ts";
import { handOverRunTime, type RunTimeParts } from "../server/run-time.ts";
import type { ListeningSocket } from "../systemd/fd-store.ts";
import type { ServiceManager } from "../systemd/service-manager.ts";
import { type Handing, type Offer, Upgrade, type UpgradeResult } from "./old.ts";
import { startNew } from "./start-new.ts";

/** The parts of a server that are handed over. */
export interface Upgradable {
  readonly pool: Pick<WorkerPool, "suspend" | "turned" | "moves" | "generation" | "counters">;
  readonly rules: Pick<InstalledRules, "lend" | "thaw" | "abandon" | "release">;
  readonly manager: Pick<ServiceManager, "handOver" | "handedTo" | "takenBack">;
  readonly pools: Pick<Pools, "handOver" | "counted">;
  readonly listening: readonly ListeningSocket[];
  readonly runTime: RunTimeParts;
  /** In ms since 1970. */
  readonly startTime: number;
  /** By the names of the services that run, of these or of all. */
  counted(names?: ReadonlySet<string>): Readonly<Record<string, Counted>>;
  /** What the process has counted besides. */
  totals(): Readonly<Record<string, number>>;
  /** Gives up the addresses that only one process can have, such as the admin socket's. */
  closeViews(): Promise<void>;
  openViews(): Promise<void>;
  /** Ends what is open within the drain time-out, and then the process. */
  stop(): void;
  warn(text: string): void;
  /** Logs how many connections have moved to the new process, and in what time. */
  moved(connections: number, ms: number): void;
}

const underWay = "an upgrade is under way";

export class ServerUpgrade implements Handing {
  private readonly server: Upgradable;
  private upgrade: Upgrade | undefined;
  private isTakenBack = false;
  /** What the kernel path had open when all services were counted last. */
  private openInKernel = 0;

  constructor(server: Upgradable) {
    this.server = server;
  }

  /** Whether a new process serves, and this one only ends what it has open. */
  get isHanded(): boolean {
    return this.upgrade?.isHanded === true;
  }

  /** Why nothing may be changed here now: the new process would not learn of it. */
  get obstacle(): string | undefined {
    if (this.upgrade === undefined || this.upgrade.isOver) return undefined;
    return this.isHanded ? "another process serves now: ask that one" : underWay;
  }

  /**
   * Hands over to this program as it is on the disk now, or to `program`. Settles once the new
   * process is ready, or it has come to nothing; then this one goes on.
   */
  begin(program?: string): Promise<UpgradeResult> {
    if (this.upgrade !== undefined && !this.upgrade.isOver) {
      return Promise.resolve({ ok: false, lines: [underWay] });
    }
    this.isTakenBack = false;
    try {
      const say = (line: string) => this.server.warn(line);
      this.upgrade = new Upgrade(this, (fd) => startNew(fd, program), say);
    } catch (error) {
      const { message } = error as Error;
      const line = `the new process cannot be started: ${message}`;
      this.server.warn(`upgrade: ${line}`);
      return Promise.resolve({ ok: false, lines: [line] });
    }
    return this.upgrade.result;
  }

  /** This process is told to stop. */
  stopping(): void {
    this.upgrade?.stop();
  }

  /** This process ends. */
  close(): void {
    this.upgrade?.close();
  }

  offer(): Offer {
    const { rules, manager, pool, pools, runTime, startTime, listening } = this.server;
    const { generation } = pool;
    return {
      parts: {
        ...{ manager: manager.handOver(), pools: pools.handOver(), startTime, generation },
        runTime: handOverRunTime(runTime),
      },
      listeners: listening.map(({ fd }) => fd),
      netlink: rules.lend(),
    };
  }

  thaw(): void {
    this.server.rules.thaw();
  }

  async hand(pid: number): Promise<void> {
    const { server } = this;
    server.pool.suspend(["tcp", "udp"]);
    await server.pool.turned();
    if (this.isTakenBack) return;
    await server.closeViews();
    if (this.isTakenBack) return server.openViews();
    server.manager.handedTo(pid);
  }

  takeBack(): void {
    const { server } = this;
    this.isTakenBack = true;
    server.manager.takenBack();
    server.pool.suspend([]);
    void server.openViews();
  }

  drain(keepsRules: boolean): void {
    const { server } = this;
    if (keepsRules) server.rules.abandon();
    else server.rules.release();
  }

  moved(connections: number, ms: number): void {
    this.server.moved(connections, ms);
  }

  end(): void {
    this.server.stop();
  }

  get workers(): WorkerPool["moves"] {
    return this.server.pool.moves;
  }

  counters(names?: ReadonlySet<string>): ReturnType<Handing["counters"]> {
    const { server } = this;
    const { active, activeSessions } = server.pool.counters();
    const relayed = active + activeSessions;
    const services = server.counted(names);
    if (names === undefined) this.openInKernel = openOf(services) - relayed;
    const open = relayed + this.openInKernel;
    return { services, upstreams: server.pools.counted(), totals: server.totals(), open };
  }
}

function openOf(services: Readonly<Record<string, Counted>>): number {
  return Object.values(services).reduce((sum, { counters }) => {
    return sum + (counters.active ?? 0) + (counters.activeSessions ?? 0);
  }, 0);
}
