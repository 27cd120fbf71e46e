/**
 * One connection of `forward`: its endpoints, its two sockets and its phase (`phase.ts`). Each
 * phase has a file: `preface.ts`, `route.ts`, `dialer.ts`, `handshake.ts` and `relaying.ts`.
 * Every connection ends in `close`, which closes both sockets once and calls the owner.
 */

import { EPOLLERR } from "../../../ffi/constants.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import type { EventLoop } from "../../engine/loop.ts";
import type { TurnTaker } from "../../engine/stream-turns.ts";
import { Timer } from "../../engine/timers.ts";
import type { Applicant } from "../../fairness/admission.ts";
import type { PassedOn } from "../../proto/proxy-header.ts";
import { type End, type EndReason, ended } from "../../workers/end-reason.ts";
import type { RateSample } from "../../workers/rates.ts";
import type { Recorded } from "../../workers/records.ts";
import type { Trail } from "../loop-detector.ts";
import type { Upstream } from "../upstream.ts";
import { NONE_TRIED } from "../upstream-pool.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";
import { checkMove, type Phase, type PhaseHandlers, phaseWords } from "./phase.ts";
import type { Relay } from "./relay.ts";

/** The owner of the connections. */
export interface ConnectionOwner {
  readonly loop: Pick<EventLoop, "now" | "timers">;
  readonly kernel: ConnectionKernel;
  readonly phases: PhaseHandlers<TcpConnection>;
  /** The flow with this handle can no longer return to us as a loop. */
  forgetFlow(handle: number): void;
  /** A connection moves from one phase to another; a new one, from `closed`. */
  moved(from: Phase, to: Phase): void;
  /** The connection is closed. Called once. */
  closed(connection: TcpConnection): void;
}

export class TcpConnection implements Recorded, Applicant, TurnTaker {
  readonly protocol = "tcp";
  readonly sentDatagrams = 0;
  readonly receivedDatagrams = 0;
  readonly id: number;
  /** The id that it had in the process where it began. */
  knownAs: string | undefined;
  startedAt: number;
  /** The client: the peer, or the address in the PROXY header. */
  client: SocketAddress;
  /** The original destination. */
  original: SocketAddress;
  upstream: SocketAddress | undefined;
  /** Whose address the upstream sees: `client`, `self` or `address`. */
  source = "";
  end: End | undefined;
  lastActive: number;
  number = -1;
  readonly clientFd: Fd;
  readonly trail: Trail;
  readonly timer = new Timer(() => this.onTimer());
  /**
   * Edges of each socket that arrived before the relay began. Data behind a PROXY header arrives
   * with the header's edge, and causes no other edge.
   */
  clientEdges = 0;
  upstreamEdges = 0;
  /** The parts of its PROXY header that are passed on to the upstream. */
  passed: PassedOn | undefined;
  /** Whether it counts among the connections that have a place (`Admission`). */
  hasPlace = false;
  /** The upstream that the pool picked, until its result is reported to the pool. */
  picked: Upstream | undefined;
  tried: readonly Upstream[] = NONE_TRIED;
  /** Upstreams that were tried in another process. */
  triedBefore = 0;
  /** Why the last attempt to connect failed. */
  attemptEnd: End | undefined;
  upstreamFd: Fd | undefined;
  /** When the newest attempt to connect began, and how long the one took that succeeded. */
  dialedAt = 0;
  connectMs = -1;
  /** Identifies its flow to the upstream in the table of outbound flows; 0: it has no entry. */
  flowHandle = 0;
  /** Undefined until its upstream is connected. */
  relay: Relay | undefined;
  /** The upstream has not answered: the first bytes go with the SYN (`Dial.fastOpen`). */
  isUnconfirmed = false;
  isHalfClosed = false;
  sample: RateSample | undefined;
  isWaitingForTurn = false;
  /** Another process may have its descriptors: this one neither uses nor resets them. */
  isFrozen = false;
  /** How it ends if this process goes on with it. */
  private heldEnd: { readonly end: End; readonly reset: boolean } | undefined;
  private readonly owner: ConnectionOwner;
  private state: Phase;

  /** `first` is the phase that `start` enters. */
  constructor(
    owner: ConnectionOwner,
    fd: Fd,
    id: number,
    client: SocketAddress,
    original: SocketAddress,
    trail: Trail,
    first: "preface" | "route" | "moving",
  ) {
    this.owner = owner;
    this.trail = trail;
    this.clientFd = fd;
    this.id = id;
    this.client = client;
    this.original = original;
    this.startedAt = owner.loop.now;
    this.lastActive = this.startedAt;
    this.state = first;
    owner.moved("closed", first);
  }

  get retries(): number {
    return this.triedBefore + this.tried.length;
  }

  get sent(): number {
    return this.relay?.sent ?? 0;
  }
  get received(): number {
    return this.relay?.received ?? 0;
  }

  /** The phase as a word, for the log and the table. */
  get phase(): string {
    const word = phaseWords[this.state];
    return this.isHalfClosed && word === "relaying" ? "half-closed" : word;
  }

  /** Whether it is in this phase. */
  isIn(phase: Phase): boolean {
    return this.state === phase;
  }

  /** Registers the client's socket and enters the first phase. */
  start(): void {
    const { kernel, phases } = this.owner;
    const handler = { onReady: (mask: number) => this.onClient(mask) };
    const added = kernel.watch(this.clientFd, handler);
    if (added < 0) {
      return this.close(ended("failed", "proxy", { call: "epoll_ctl", errno: -added }), true);
    }
    if (this.state !== "closed") phases[this.state].enter(this);
  }

  /** Moves to `next`, which may itself move on at once: callers return right after this call. */
  setState(next: Exclude<Phase, "closed">): void {
    this.move(next);
    this.owner.phases[next].enter(this);
  }

  /** Arms the timer to fire in `ms`; replaces the time of an earlier call. */
  arm(ms: number): void {
    const { timers, now } = this.owner.loop;
    timers.arm(this.timer, now + ms);
  }

  /** Registers `fd`, which connects to an upstream. Returns 0 or a negated errno. */
  watchUpstream(fd: Fd): number {
    this.upstreamFd = fd;
    return this.owner.kernel.watch(fd, { onReady: (mask) => this.onUpstream(mask) });
  }

  /** Registers both sockets of a relay. Returns 0 or a negated errno. */
  watchBoth(upstreamFd: Fd): number {
    const handler = { onReady: (mask: number) => this.onClient(mask) };
    const added = this.owner.kernel.watch(this.clientFd, handler);
    return added < 0 ? added : this.watchUpstream(upstreamFd);
  }

  /** Leaves its descriptors to another process until `thaw` or `leave` is called. */
  freeze(): void {
    const { kernel, loop } = this.owner;
    this.isFrozen = true;
    this.clientEdges = 0;
    this.upstreamEdges = 0;
    loop.timers.disarm(this.timer);
    for (const fd of this.descriptors()) kernel.lend(fd);
    this.move("moving");
  }

  /** No other process has it any more: goes on, or ends if that was asked for meanwhile. */
  thaw(): void {
    const { kernel } = this.owner;
    this.isFrozen = false;
    for (const fd of this.descriptors()) kernel.own(fd);
    const { heldEnd } = this;
    if (heldEnd !== undefined) return this.close(heldEnd.end, heldEnd.reset);
    this.owner.phases.moving.enter(this);
  }

  /** Another process has it: closes our descriptors, which ends nothing. */
  leave(): void {
    const { kernel } = this.owner;
    this.isFrozen = false;
    this.move("closed");
    this.relay?.release();
    this.closeUpstream();
    kernel.close(this.clientFd);
  }

  /** A loop never gets an answer, so a flow that was answered is no loop. */
  forgetFlow(): void {
    if (this.flowHandle !== 0) this.owner.forgetFlow(this.flowHandle);
    this.flowHandle = 0;
  }

  /** Closes the socket towards the upstream, connected or not. */
  closeUpstream(): void {
    this.forgetFlow();
    if (this.upstreamFd !== undefined) this.owner.kernel.close(this.upstreamFd);
    this.upstreamFd = undefined;
    this.upstreamEdges = 0;
  }

  /** Ends the connection for a reason outside of it. */
  abort(reason: EndReason): void {
    this.close(ended(reason), true);
  }

  /** Closes both sockets; sends RST if undelivered bytes are lost. */
  close(end: End, reset: boolean): void {
    if (this.state === "closed") return;
    if (this.isFrozen) {
      this.heldEnd ??= { end, reset };
      return;
    }
    this.move("closed");
    this.end = end;
    const { kernel, loop } = this.owner;
    loop.timers.disarm(this.timer);
    this.relay?.release();
    if (reset) {
      kernel.resetOnClose(this.clientFd);
      if (this.upstreamFd !== undefined) kernel.resetOnClose(this.upstreamFd);
    }
    this.closeUpstream();
    kernel.close(this.clientFd);
    this.owner.closed(this);
  }

  takeTurn(): void {
    if (this.state === "relay") this.owner.phases.relay.onTurn?.(this);
  }

  /** All that a connection that relays has. */
  descriptors(): readonly number[] {
    const pipes = this.relay?.flows().map(({ pipe }) => pipe) ?? [];
    const ends = pipes.flatMap((pipe) => (pipe ? [pipe.readEnd, pipe.writeEnd] : []));
    return [this.clientFd, this.upstreamFd ?? [], ends].flat();
  }

  private move(next: Phase): void {
    checkMove(this.state, next);
    this.owner.moved(this.state, next);
    this.state = next;
  }

  private onClient(mask: number): void {
    const { state } = this;
    if (state === "closed") return;
    if (state !== "relay") {
      this.clientEdges |= mask;
      const isReset = (mask & EPOLLERR) !== 0 && state !== "moving";
      if (isReset) return this.close(ended("reset", "client"), true);
    }
    this.owner.phases[state].onClient?.(this, mask);
  }

  private onUpstream(mask: number): void {
    const { state } = this;
    if (state !== "closed") this.owner.phases[state].onUpstream?.(this, mask);
  }

  private onTimer(): void {
    const { state } = this;
    if (state !== "closed") this.owner.phases[state].onTimer?.(this);
  }
}
