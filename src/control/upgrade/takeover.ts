/**
 * The new process of an upgrade: it gets listeners, state and rules of the old one, says when it is
 * ready, and serves once the old one receives nothing new any more.
 */

import { AF_UNIX, SO_DOMAIN, SO_TYPE, SOCK_SEQPACKET, SOL_SOCKET } from "../../../ffi/constants.ts";
import * as sys from "../../../ffi/sys.ts";
import { CommandError } from "../../errors.ts";
import { gauges } from "../../workers/counters.ts";
import type { Counted } from "../../workers/inherited-counts.ts";
import type { Packed } from "../../workers/moved.ts";
import type { Adoption } from "../../workers/pool-moves.ts";
import type { TakenCapture } from "../held-capture.ts";
import { Channel } from "./channel.ts";
import { type FromOld, moveFormat, protocolVersion, readFromOld } from "./messages.ts";

/** Names the descriptor of the channel to the old process. */
export const takeoverVariable = "TPROXY_TAKEOVER";

/** Messages whose descriptors are used. */
const withDescriptors: readonly FromOld["kind"][] = ["listeners", "netlink", "batch"];

/** What is left of counters of a process that has nothing open any more. */
function withoutGauges(all: Readonly<Record<string, Counted>>): Record<string, Counted> {
  return Object.fromEntries(
    Object.entries(all).map(([name, { counters, tally }]) => {
      const kept = Object.entries(counters).filter(([each]) => !gauges.includes(each as never));
      return [name, { counters: Object.fromEntries(kept), tally }];
    }),
  );
}

/** The channel that `env` names; undefined if this process was not started by an upgrade. */
function channelIn(env: NodeJS.ProcessEnv): number | undefined {
  const given = env[takeoverVariable];
  if (given === undefined) return undefined;
  delete env[takeoverVariable];
  const fd = /^[0-9]{1,4}$/.test(given) ? Number(given) : -1;
  const isChannel =
    sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN) === AF_UNIX &&
    sys.getsockopt(fd, SOL_SOCKET, SO_TYPE) === SOCK_SEQPACKET;
  return isChannel ? fd : undefined;
}

/** Counts of an old process that are no service's. */
export type ProcessCounts = Pick<FromOld & { kind: "counters" }, "upstreams" | "totals">;

/** How an old process has ended: `reason` is undefined if it has announced that. */
export interface OldEnd {
  readonly reason: string | undefined;
  /** What it had open then, as far as it has said. */
  readonly open: number;
}

export class Takeover {
  /** What the parts of the old server handed over, by their names. */
  parts: Readonly<Record<string, unknown>> = {};
  /** Owned by the caller of `begin`. */
  listeners: readonly number[] = [];
  capture: TakenCapture | undefined;
  /** Called with what the old process has counted, by service, again and again. */
  onCounted: (services: Readonly<Record<string, Counted>>) => void = () => {};
  /** Called with the counts of upstreams and of the process, as far as the old one has sent any. */
  onTotals: (counts: ProcessCounts) => void = () => {};
  /** Called once the old process has ended: with what was still open, by its last word if any. */
  onEnded: (end: OldEnd) => void = () => {};
  /** The old process. */
  readonly oldPid = process.ppid;
  /** Takes over what is open; owns the descriptors. */
  onBatch: (rows: readonly Packed[], fds: readonly number[]) => Promise<Adoption> = async (
    rows,
    fds,
  ) => {
    for (const fd of fds) sys.close(fd);
    return { refused: [...rows.keys()], begin: () => {} };
  };
  /** The last of it. */
  counted: Readonly<Record<string, Counted>> = {};
  /** How much the old process still has open. */
  open = 0;
  private readonly channel: Channel;
  private readonly offered = Promise.withResolvers<void>();
  private readonly served = Promise.withResolvers<void>();
  private readonly end = Promise.withResolvers<void>();
  private readonly move = Promise.withResolvers<void>();
  private isOffered = false;
  private hasEnded = false;
  /** The old process has said that it ends. */
  private hasAnnounced = false;
  /** By batch: what the old process may still have. */
  private readonly adoptions = new Map<number, Adoption>();

  private constructor(fd: number) {
    this.channel = new Channel(fd, {
      message: (value, descriptors) => this.heard(value, descriptors),
      gone: (reason) => this.oldEnded(reason),
    });
  }

  /**
   * Takes over from the process that has started this one; undefined if none has. Settles once all
   * that it offers is here.
   * @throws CommandError if it ends before
   */
  static async begin(env: NodeJS.ProcessEnv, version: string): Promise<Takeover | undefined> {
    const fd = channelIn(env);
    if (fd === undefined) return undefined;
    const takeover = new Takeover(fd);
    const hello = { kind: "hello", protocol: protocolVersion, version, pid: process.pid };
    takeover.channel.send({ ...hello, moves: moveFormat });
    await takeover.offered.promise;
    return takeover;
  }

  /**
   * The process that has started this one, if any has, gets the reasons why this one ends before it
   * takes anything over.
   */
  static async refuse(env: NodeJS.ProcessEnv, lines: readonly string[]): Promise<void> {
    const fd = channelIn(env);
    if (fd === undefined) return;
    const takeover = new Takeover(fd);
    // Nothing is offered to a process that has not said hello.
    takeover.offered.promise.catch(() => {});
    await takeover.failed(lines);
  }

  /**
   * All runs, and TCP accepts; `keepsRules`: with the rules that were handed over. Settles once the
   * old process receives nothing new, or has ended.
   */
  async ready(keepsRules: boolean): Promise<void> {
    this.channel.send({ kind: "ready", keepsRules });
    await this.served.promise;
    this.channel.rest();
  }

  /** This process ends instead. Settles once the old one knows. */
  async failed(lines: readonly string[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.channel.send({ kind: "failed", lines }, [], resolve);
    await Promise.race([promise, this.end.promise]);
    this.channel.close();
  }

  /** Has the old process end what it still has open, within its drain time-out. */
  stopOld(): void {
    this.channel.send({ kind: "stop" });
  }

  /** Settles once the old process has ended. */
  get ended(): Promise<void> {
    return this.end.promise;
  }

  /** Settles once the old process has moved what it could, or has ended. */
  get moved(): Promise<void> {
    return this.move.promise;
  }

  close(): void {
    this.channel.close();
  }

  private async adopt(
    batch: number,
    rows: readonly Packed[],
    fds: readonly number[],
  ): Promise<void> {
    const adoption = await this.onBatch(rows, fds);
    this.adoptions.set(batch, adoption);
    this.channel.send({ kind: "adopted", batch, refused: adoption.refused });
    if (this.hasEnded) this.begin(batch);
  }

  /** The old process has closed what this one has taken over of a batch. */
  private begin(batch: number): void {
    this.adoptions.get(batch)?.begin();
    this.adoptions.delete(batch);
  }

  private heard(value: unknown, descriptors: readonly number[]): void {
    const message = readFromOld(value);
    const isTaken = message !== undefined && withDescriptors.includes(message.kind);
    if (!isTaken) for (const fd of descriptors) sys.close(fd);
    switch (message?.kind) {
      case "state":
        this.parts = message.parts;
        return;
      case "listeners":
        this.listeners = descriptors;
        return;
      case "netlink": {
        const [fd] = descriptors;
        const { identity } = message;
        if (fd !== undefined && identity !== undefined) this.capture = { fd, identity };
        this.isOffered = true;
        return this.offered.resolve();
      }
      case "serve":
        return this.served.resolve();
      case "batch":
        return void this.adopt(message.batch, message.rows, descriptors);
      case "begin":
        return this.begin(message.batch);
      case "moved":
        return this.move.resolve();
      case "counters":
        this.counted = { ...this.counted, ...message.services };
        this.open = message.open;
        this.onTotals(message);
        return this.onCounted(this.counted);
      case "ends":
        this.open = message.open;
        this.hasAnnounced = true;
        return;
      case undefined:
        return this.oldEnded("it has sent an unknown message");
    }
  }

  /** With all that it offered this process goes on by itself. */
  private oldEnded(reason: string): void {
    this.onEnded({ reason: this.hasAnnounced ? undefined : reason, open: this.open });
    this.open = 0;
    this.counted = withoutGauges(this.counted);
    this.onCounted(this.counted);
    if (!this.isOffered) {
      for (const fd of this.listeners) sys.close(fd);
      const text = `the old process has ended before it had handed over: ${reason}`;
      this.offered.reject(new CommandError(text));
    }
    this.served.resolve();
    this.move.resolve();
    this.end.resolve();
    this.hasEnded = true;
    for (const batch of [...this.adoptions.keys()]) this.begin(batch);
  }
}
