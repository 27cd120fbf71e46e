/**
 * One connection of `forward`: what is known of it, its two sockets, and its phase (`phase.ts`).
 * The phases themselves are in files of their own: `preface.ts`, `route.ts`, `dialer.ts`,
 * `handshake.ts` and `relaying.ts`. Every way out goes through `close`, which closes both sockets
 * once and tells the owner.
 */

import { EPOLLERR } from "../../../ffi/constants.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { Timer } from "../../engine/timers.ts";
import type { Applicant } from "../../fairness/admission.ts";
import type { PassedOn } from "../../proto/proxy-header.ts";
import { type End, type EndReason, ended } from "../../workers/end-reason.ts";
import type { Recorded } from "../../workers/records.ts";
import type { Trail } from "../loop-detector.ts";
import { NONE_TRIED, type Upstream } from "../upstream-pool.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";
import { checkMove, type Phase, type PhaseHandlers, phaseWords } from "./phase.ts";
import type { Relay } from "./relay.ts";

/** Whose connections they are. */
export interface ConnectionOwner {
  readonly loop: Pick<EventLoop, "now" | "timers">;
  readonly kernel: ConnectionKernel;
  readonly phases: PhaseHandlers<TcpConnection>;
  /** A flow to an upstream, by its handle, can no longer come back to us. */
  forgetFlow(handle: number): void;
  /** It is closed. Called once. */
  closed(connection: TcpConnection): void;
}

export class TcpConnection implements Recorded, Applicant {
  readonly protocol = "tcp";
  readonly sentDatagrams = 0;
  readonly receivedDatagrams = 0;
  readonly id: number;
  readonly startedAt: number;
  /** Who the client is: the peer, or whom the PROXY protocol names. */
  client: SocketAddress;
  /** Where the client wanted to go. */
  original: SocketAddress;
  upstream: SocketAddress | undefined;
  /** `client`, `self` or `address`: whose address the upstream sees. */
  source = "";
  end: End | undefined;
  lastActive: number;
  number = -1;
  readonly clientFd: Fd;
  readonly trail: Trail;
  readonly timer = new Timer(() => this.onTimer());
  /**
   * Edges of each socket that came before there was a relay to tell. What has come with a header is
   * among them: there is no other edge for the data behind it.
   */
  clientEdges = 0;
  upstreamEdges = 0;
  /** What its PROXY protocol header says beside the two ends. */
  passed: PassedOn | undefined;
  /** It counts among the connections that have a place (`Admission`). */
  hasPlace = false;
  /** What the pool gave, until it is told how that went. */
  picked: Upstream | undefined;
  tried: readonly Upstream[] = NONE_TRIED;
  /** How the last attempt to connect failed. */
  attemptEnd: End | undefined;
  upstreamFd: Fd | undefined;
  /** By which its flow to the upstream is known, should it come back; 0: it is not. */
  flowHandle = 0;
  /** Once its upstream is connected. */
  relay: Relay | undefined;
  isHalfClosed = false;
  /** The relay has more to do in the next turn of the loop. */
  isDeferred = false;
  private readonly owner: ConnectionOwner;
  private state: Phase;

  /** `first` is the phase that it begins in when it is started. */
  constructor(
    owner: ConnectionOwner,
    fd: Fd,
    id: number,
    client: SocketAddress,
    original: SocketAddress,
    trail: Trail,
    first: "preface" | "route",
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
  }

  get sent(): number {
    return this.relay?.sent ?? 0;
  }
  get received(): number {
    return this.relay?.received ?? 0;
  }

  /** What it does, for people. */
  get phase(): string {
    return this.isHalfClosed && this.state === "relay" ? "half-closed" : phaseWords[this.state];
  }

  /** Whether it is in this phase. */
  isIn(phase: Phase): boolean {
    return this.state === phase;
  }

  /** Registers the client and begins. */
  start(): void {
    const { kernel, phases } = this.owner;
    const handler = { onReady: (mask: number) => this.onClient(mask) };
    const added = kernel.watch(this.clientFd, handler);
    if (added < 0) {
      return this.close(ended("failed", "proxy", { call: "epoll_ctl", errno: -added }), true);
    }
    if (this.state !== "closed") phases[this.state].enter(this);
  }

  /** Moves on to `next`, which may move on at once: a caller has nothing more to do after it. */
  setState(next: Exclude<Phase, "closed">): void {
    this.move(next);
    this.owner.phases[next].enter(this);
  }

  /** The timer is to fire in `ms`, unless it is armed anew before. */
  arm(ms: number): void {
    const { timers, now } = this.owner.loop;
    timers.arm(this.timer, now + ms);
  }

  /** `fd` is on its way to an upstream. Returns 0 or a negated errno. */
  watchUpstream(fd: Fd): number {
    this.upstreamFd = fd;
    return this.owner.kernel.watch(fd, { onReady: (mask) => this.onUpstream(mask) });
  }

  /** Nothing that comes back to us is ever answered: whatever has been is no loop. */
  forgetFlow(): void {
    if (this.flowHandle !== 0) this.owner.forgetFlow(this.flowHandle);
    this.flowHandle = 0;
  }

  /** Ends the attempt at an upstream, or the connection to it. */
  closeUpstream(): void {
    this.forgetFlow();
    if (this.upstreamFd !== undefined) this.owner.kernel.close(this.upstreamFd);
    this.upstreamFd = undefined;
    this.upstreamEdges = 0;
  }

  /** Ends it from outside. */
  abort(reason: EndReason): void {
    this.close(ended(reason), true);
  }

  /** Closes both sockets, with a reset if what was on its way has been lost. */
  close(end: End, reset: boolean): void {
    if (this.state === "closed") return;
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

  private move(next: Phase): void {
    checkMove(this.state, next);
    this.state = next;
  }

  private onClient(mask: number): void {
    const { state } = this;
    if (state === "closed") return;
    if (state !== "relay") {
      this.clientEdges |= mask;
      if (mask & EPOLLERR) return this.close(ended("reset", "client"), true);
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
