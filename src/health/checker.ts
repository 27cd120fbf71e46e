/**
 * Checks upstreams in a Worker of its own: nothing that a service carries waits for it. Results go
 * to the board, and it reports every change to the main thread.
 */

import { allocate } from "../../ffi/memory.ts";
import { probeBytes } from "../engine/limits.ts";
import { Timer } from "../engine/timers.ts";
import { formatDuration } from "../net/duration.ts";
import type { HealthTarget, HealthTask } from "../workers/health-task.ts";
import type { ServiceChange } from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";
import { isDown, UpstreamBoard } from "../workers/upstream-board.ts";
import { dialogOf } from "./dialogs.ts";
import { HealthState } from "./health-state.ts";
import { Probe } from "./probe.ts";

export class HealthChecker implements Service {
  private readonly context: ServiceContext;
  private readonly board: UpstreamBoard;
  private readonly buffer = allocate(probeBytes);
  /** By slot. */
  private readonly checks = new Map<number, Check>();

  constructor(context: ServiceContext, task: HealthTask) {
    this.context = context;
    this.board = new UpstreamBoard(task.board);
    this.take(task.targets);
  }

  update({ targets }: ServiceChange): void {
    if (targets !== undefined) this.take(targets);
  }

  stop(): void {
    for (const check of this.checks.values()) check.stop();
    this.checks.clear();
    this.context.finish();
  }

  /** Checks these from now on. Checks that stay as they are go on. */
  private take(targets: readonly HealthTarget[]): void {
    const left = new Set(this.checks.keys());
    for (const target of targets) {
      left.delete(target.slot);
      const check = this.checks.get(target.slot);
      if (check !== undefined && Bun.deepEquals(check.target, target)) continue;
      check?.stop();
      const isUp = check?.isUp ?? !isDown(this.board.checkState(target.slot));
      const next = new Check(this.context, target, isUp, this.board, this.buffer);
      this.checks.set(target.slot, next);
    }
    for (const slot of left) {
      this.checks.get(slot)?.stop();
      this.checks.delete(slot);
    }
  }
}

/** The checks of one address, one after the other. */
class Check {
  readonly target: HealthTarget;
  private readonly context: ServiceContext;
  private readonly board: UpstreamBoard;
  private readonly buffer: ReturnType<typeof allocate>;
  private readonly state: HealthState;
  private readonly timer = new Timer(() => this.onTimer());
  /** The newest check; it may linger after its end. */
  private probe: Probe | undefined;
  private isRunning = false;
  private startedAt = 0;

  constructor(
    context: ServiceContext,
    target: HealthTarget,
    isUp: boolean,
    board: UpstreamBoard,
    buffer: ReturnType<typeof allocate>,
  ) {
    this.target = target;
    this.context = context;
    this.board = board;
    this.buffer = buffer;
    this.state = new HealthState(target.check, isUp);
    const { loop } = context;
    loop.timers.arm(this.timer, loop.now + this.state.firstDelay(Math.random()));
  }

  get isUp(): boolean {
    return this.state.isUp;
  }

  stop(): void {
    this.context.loop.timers.disarm(this.timer);
    this.probe?.cancel();
  }

  /** A check is due, or it has taken too long. */
  private onTimer(): void {
    const { isRunning, probe, target } = this;
    probe?.cancel();
    if (!isRunning) return this.begin();
    this.end(`no answer within ${formatDuration(target.check.timeoutMs)}`);
  }

  private begin(): void {
    const { context, target } = this;
    const { loop } = context;
    const { check, address, mark, host } = target;
    this.isRunning = true;
    this.startedAt = performance.now();
    loop.timers.arm(this.timer, loop.now + check.timeoutMs);
    const dialog = dialogOf(check.probe, host, () => crypto.getRandomValues(new Uint8Array(96)));
    this.probe = new Probe(loop, dialog, this.buffer, (failure) => this.end(failure));
    const protocol = check.probe.type === "udp" ? "udp" : "tcp";
    this.probe.start({ protocol, address, mark });
  }

  private end(failure: string): void {
    const { board, context, state, target } = this;
    const { loop } = context;
    const { slot } = target;
    this.isRunning = false;
    const succeeded = failure === "";
    const ms = performance.now() - this.startedAt;
    board.checked(slot, succeeded, ms);
    if (state.note(succeeded)) {
      context.report({ kind: "health", slot, isUp: state.isUp, reason: failure });
    }
    loop.timers.arm(this.timer, loop.now + Math.max(0, state.delay(Math.random()) - ms));
  }
}
