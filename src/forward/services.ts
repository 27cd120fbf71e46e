/**
 * `forward` in one Worker: TCP, UDP or both. Each protocol has a part that accepts. A reload that
 * changes how connections begin gives it another one, at the same listeners; the old part stays
 * until its connections have ended.
 */

import type { Scheme } from "../net/target.ts";
import type { Packed } from "../workers/moved.ts";
import {
  applyChange,
  type ForwardTask,
  ownTask,
  type ServedSocket,
  type ServiceChange,
} from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";
import type { OpenRows } from "../workers/table.ts";
import { TcpForwarder } from "./tcp/forwarder.ts";
import { UdpForwarder } from "./udp/forwarder.ts";

/** One protocol of a service, and the settings that it was begun with. */
interface Part {
  readonly protocol: Scheme;
  readonly task: ForwardTask;
  readonly forwarder: TcpForwarder | UdpForwarder;
}

export class ForwardServices implements Service {
  private readonly context: ServiceContext;
  private parts: Part[] = [];
  /** It ends with its last part. */
  private isStopped = false;
  private isFinished = false;

  constructor(context: ServiceContext, task: ForwardTask) {
    this.context = context;
    this.begin("tcp", task);
    this.begin("udp", task);
  }

  suspend(protocols: readonly Scheme[]): void {
    for (const { forwarder } of this.parts) forwarder.suspend(protocols);
  }

  get rows(): OpenRows[] {
    return this.parts.map(({ task: { name, route }, forwarder }) => ({
      open: forwarder.open,
      names: { service: name, pool: route.pool.name },
      kill: (row) => forwarder.kill(row as never),
      ...("moves" in forwarder ? { moves: forwarder.moves } : {}),
    }));
  }

  adopt(packed: Packed, descriptors: readonly number[]): (() => void) | undefined {
    const forwarder = this.accepting(packed.protocol)?.forwarder;
    return forwarder && "adopt" in forwarder ? forwarder.adopt(packed, descriptors) : undefined;
  }

  stop(drainMs?: number): void {
    this.isStopped = true;
    for (const { forwarder } of [...this.parts]) forwarder.stop(drainMs);
    this.finishWhenEmpty();
  }

  update(change: ServiceChange): void {
    for (const { task, forwarder } of [...this.parts]) {
      applyChange(task, change);
      forwarder.update(change);
    }
  }

  release(closed: readonly number[], moved: readonly number[]): void {
    const gone = new Set([...closed, ...moved]);
    this.parts = this.parts.map((part) => {
      part.forwarder.release(closed, moved);
      const sockets = part.task.sockets.filter(({ fd }) => !gone.has(fd));
      return { ...part, task: { ...part.task, sockets } };
    });
  }

  replace(task: ForwardTask, replaced: readonly Scheme[]): void {
    for (const protocol of ["tcp", "udp"] as const) {
      const sockets = socketsOf(task, protocol);
      const accepting = this.accepting(protocol);
      if (accepting === undefined) this.begin(protocol, task);
      else if (sockets.length === 0) this.retire(accepting);
      else if (replaced.includes(protocol)) {
        // What it leaves open is for its successor.
        const fds = sockets.map(({ fd }) => fd);
        accepting.forwarder.release([], fds);
        this.retire(accepting);
        this.begin(protocol, task);
      } else {
        const known = new Set(socketsOf(accepting.task, protocol).map(({ fd }) => fd));
        accepting.forwarder.listen(sockets.filter(({ fd }) => !known.has(fd)));
        this.parts = this.parts.map((part) =>
          part === accepting ? { ...part, task: { ...part.task, sockets: task.sockets } } : part,
        );
      }
    }
  }

  /** The part that accepts: the newest one. */
  private accepting(protocol: Scheme): Part | undefined {
    const last = this.parts.findLast((part) => part.protocol === protocol);
    return last?.forwarder.isStopped === true ? undefined : last;
  }

  /** Its connections go on; sessions, which nobody feeds any more, end. */
  private retire({ forwarder }: Part): void {
    forwarder.stop(Number.POSITIVE_INFINITY);
  }

  private begin(protocol: Scheme, given: ForwardTask): void {
    if (socketsOf(given, protocol).length === 0) return;
    const task = ownTask(given);
    const { context } = this;
    const finished = () => this.finished(forwarder);
    const { sessions } = task;
    let forwarder: TcpForwarder | UdpForwarder;
    if (protocol === "tcp") forwarder = new TcpForwarder(context, task, finished);
    else if (sessions === undefined) return;
    else forwarder = new UdpForwarder(context, task, sessions, finished);
    this.parts.push({ protocol, task, forwarder });
  }

  private finished(forwarder: TcpForwarder | UdpForwarder): void {
    this.parts = this.parts.filter((part) => part.forwarder !== forwarder);
    if (this.isStopped) this.finishWhenEmpty();
  }

  private finishWhenEmpty(): void {
    if (this.parts.length > 0 || this.isFinished) return;
    this.isFinished = true;
    this.context.finish();
  }
}

function socketsOf({ sockets }: ForwardTask, wanted: Scheme): ServedSocket[] {
  return sockets.filter(({ protocol }) => protocol === wanted);
}
