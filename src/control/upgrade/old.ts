/**
 * The old process of an upgrade: it starts the new one, hands over to it, and serves again if that
 * does not last. The decisions are in `old-state.ts`.
 */

import * as sys from "../../../ffi/sys.ts";
import type { Counted } from "../../workers/inherited-counts.ts";
import { Channel, channelEnds } from "./channel.ts";
import { type CaptureIdentity, moveFormat, readFromNew } from "./messages.ts";
import { Mover, type MovingWorkers } from "./mover.ts";
import { nextOld, type OldAction, type OldInput, type OldPhase } from "./old-state.ts";

/** How long each phase may take. */
export interface UpgradeTimes {
  /** Until the new process is ready. */
  readonly readyMs: number;
  /** How long the new process has to live before the old one gives up. */
  readonly trialMs: number;
  /** Between two reports of what is counted. */
  readonly countersMs: number;
  /** For what is open to move, before this process begins to end it. */
  readonly moveMs: number;
}

const usualTimes: UpgradeTimes = {
  ...{ readyMs: 60_000, trialMs: 5_000, countersMs: 1_000, moveMs: 10_000 },
};

/** The time for an answer about the result to leave by the admin socket. */
const answerMs = 50;

/** What is handed over. */
export interface Offer {
  readonly parts: Readonly<Record<string, unknown>>;
  readonly listeners: readonly number[];
  readonly netlink: { readonly fd: number; readonly identity: CaptureIdentity } | undefined;
}

/** The server that hands over. None of these may throw. */
export interface Handing {
  /** What is handed over; from here on the rules are left alone. */
  offer(): Offer;
  /** The rules are looked after again. */
  thaw(): void;
  /** Receives nothing new, and gives up its name and its admin socket. */
  hand(pid: number): Promise<void>;
  /** Serves again. */
  takeBack(): void;
  /**
   * Gives up the rules, which are the new process's if that keeps them, and are removed
   * otherwise. `end` follows.
   */
  drain(keepsRules: boolean): void;
  /** So many connections have moved in this time. */
  moved(connections: number, ms: number): void;
  /** Gives up listeners, and ends what is open within the drain time-out. */
  end(): void;
  /** What is open, to be moved. */
  readonly workers: MovingWorkers;
  /** What is counted so far, by service (of these or of all), and how much is open. */
  counters(names?: ReadonlySet<string>): {
    readonly services: Readonly<Record<string, Counted>>;
    /** Of upstreams: what has changed since the last call. */
    readonly upstreams: unknown;
    /** Of the process. */
    readonly totals: Readonly<Record<string, number>>;
    readonly open: number;
  };
}

/** A new process that was started with one end of the channel as its descriptor 3. */
export interface NewProcess {
  readonly pid: number;
  readonly exited: Promise<string>;
  kill(): void;
}

/** How an upgrade has begun: the new process serves, or why it does not. */
export type UpgradeResult =
  | { readonly ok: true; readonly pid: number; readonly version: string }
  | { readonly ok: false; readonly lines: readonly string[] };

export class Upgrade {
  /** Settles once the new process is ready to serve, or it has come to nothing. */
  readonly result: Promise<UpgradeResult>;
  private readonly begun = Promise.withResolvers<UpgradeResult>();
  private readonly handing: Handing;
  private readonly times: UpgradeTimes;
  private readonly say: (line: string) => void;
  private readonly channel: Channel;
  private readonly process: NewProcess;
  private readonly mover: Mover;
  private phase: OldPhase = "starting";
  private version = "";
  private keepsRules = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private reports: ReturnType<typeof setInterval> | undefined;
  private isClosed = false;
  /** The new process takes over what is open. */
  private adopts = false;

  /**
   * Starts the new process by `start`, which gets the descriptor for it and does not close it.
   * `say` logs what happens after `result` has settled.
   * @throws Error if it cannot be started
   */
  constructor(
    handing: Handing,
    start: (fd: number) => NewProcess,
    say: (line: string) => void,
    times: UpgradeTimes = usualTimes,
  ) {
    this.handing = handing;
    this.times = times;
    this.say = say;
    this.result = this.begun.promise;
    const [own, theirs] = channelEnds();
    try {
      this.process = start(theirs);
    } catch (error) {
      sys.close(own);
      throw error;
    } finally {
      sys.close(theirs);
    }
    this.channel = new Channel(own, {
      message: (value, descriptors) => this.heard(value, descriptors),
      gone: (reason) => this.newEnded(reason),
      waits: (reason) => say(`upgrade: ${reason}`),
    });
    this.mover = new Mover(handing.workers, {
      send: (batch, rows, descriptors) => {
        // Before the new process counts them: what is frozen is counted nowhere.
        this.report(new Set(rows.map(({ service }) => service)));
        this.channel.send({ kind: "batch", batch, rows }, descriptors);
      },
      begin: (batch) => this.channel.send({ kind: "begin", batch }),
    });
    void this.process.exited.then((reason) => this.newEnded(reason));
    this.waitAtMost(times.readyMs);
  }

  /** Whether the new process serves, and this one only ends what it has open. */
  get isHanded(): boolean {
    return this.phase === "trial" || this.phase === "draining";
  }

  get isOver(): boolean {
    return this.phase === "over";
  }

  /** This process is told to stop. */
  stop(): void {
    this.next({ kind: "stop" });
  }

  /** This process ends: the last counters are sent. */
  close(): void {
    this.isClosed = true;
    clearTimeout(this.timer);
    clearInterval(this.reports);
    if (this.isHanded) {
      this.report();
      this.channel.send({ kind: "ends", open: this.handing.counters().open });
      this.channel.flush();
    }
    this.channel.close();
  }

  private heard(value: unknown, descriptors: readonly number[]): void {
    for (const fd of descriptors) sys.close(fd);
    const message = readFromNew(value);
    if (message === undefined) return this.next({ kind: "gone", reason: "it speaks otherwise" });
    if (message.kind === "adopted") return this.mover.adopted(message.batch, message.refused);
    if (message.kind === "hello") {
      this.version = message.version;
      this.adopts = message.moves === moveFormat;
    }
    if (message.kind === "ready") this.keepsRules = message.keepsRules;
    this.next(message);
  }

  /** Whatever it has not taken over goes on here. */
  private newEnded(reason: string): void {
    this.mover.end();
    this.next({ kind: "gone", reason });
  }

  private next(input: OldInput): void {
    const [phase, actions] = nextOld(this.phase, input);
    const wasOver = this.isOver;
    this.phase = phase;
    for (const action of actions) this.act(action);
    if (!wasOver && this.isOver) this.close();
  }

  private act(action: OldAction): void {
    switch (action.kind) {
      case "offer":
        return this.offer();
      case "hand":
        return void this.hand();
      case "takeBack":
        return this.handing.takeBack();
      case "drain":
        clearTimeout(this.timer);
        return void this.drain(action.moves);
      case "thaw":
        return this.handing.thaw();
      case "kill":
        return this.process.kill();
      case "report":
        this.begun.resolve({ ok: false, lines: action.lines });
        for (const line of action.lines) this.say(`upgrade: ${line}`);
    }
  }

  private offer(): void {
    const { channel } = this;
    const { parts, listeners, netlink } = this.handing.offer();
    channel.send({ kind: "state", parts });
    channel.send({ kind: "listeners" }, listeners);
    const fds = netlink === undefined ? [] : [netlink.fd];
    const offered = () => this.next({ kind: "offered" });
    channel.send({ kind: "netlink", identity: netlink?.identity }, fds, offered);
  }

  private async hand(): Promise<void> {
    const { pid } = this.process;
    this.waitAtMost(this.times.trialMs);
    // First, for the admin socket on which it may be awaited is given up below.
    this.begun.resolve({ ok: true, pid, version: this.version });
    await Bun.sleep(answerMs);
    if (!this.isHanded) return;
    await this.handing.hand(pid);
    // The new process may have ended meanwhile.
    if (!this.isHanded) return;
    this.report();
    this.channel.send({ kind: "serve" });
    this.reports = setInterval(() => this.report(), this.times.countersMs);
  }

  /** What is open moves; what cannot move now is tried again, and ends here otherwise. */
  private async drain(moves: boolean): Promise<void> {
    const { handing, channel, times, mover } = this;
    handing.drain(this.keepsRules);
    const isMoving = moves && this.adopts;
    const begun = performance.now();
    const first = isMoving ? mover.move("tcp") : undefined;
    await Promise.race([first, Bun.sleep(times.moveMs)]);
    if (isMoving) {
      if (mover.moved > 0) handing.moved(mover.moved, performance.now() - begun);
      this.report();
      channel.send({ kind: "moved" });
    }
    handing.end();
    channel.rest();
    await first;
    while (isMoving && !this.isClosed) {
      await Bun.sleep(times.countersMs);
      await mover.move("tcp");
    }
  }

  private report(names?: ReadonlySet<string>): void {
    this.channel.send({ kind: "counters", ...this.handing.counters(names) });
  }

  private waitAtMost(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.next({ kind: "timeout" }), ms);
  }
}
