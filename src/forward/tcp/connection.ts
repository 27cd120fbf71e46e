/**
 * One connection of `forward`: header (where the PROXY protocol is accepted), connecting, relaying,
 * closed. Every way out goes through `close`, which closes both sockets once and reports.
 */

import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  IPPROTO_TCP,
  SO_ERROR,
  SOL_SOCKET,
  TCP_QUICKACK,
} from "../../../ffi/constants.ts";
import { type CallFailure, describeFailure } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { acceptPauseMs, connectAttemptsMax } from "../../engine/limits.ts";
import { isShortage } from "../../engine/tcp-listener.ts";
import { Timer } from "../../engine/timers.ts";
import type { Applicant } from "../../fairness/admission.ts";
import { cidrContains } from "../../net/cidr.ts";
import type { PassedOn } from "../../proto/proxy-header.ts";
import {
  dialRejected,
  type End,
  type EndReason,
  ended,
  endText,
  socketFailed,
} from "../../workers/end-reason.ts";
import type { Recorded } from "../../workers/records.ts";
import { dialFor, sourceName, upstreamFamily } from "../dial.ts";
import type { Trail } from "../loop-detector.ts";
import { NONE_TRIED, type Upstream } from "../upstream-pool.ts";
import type { TcpConnectionOwner } from "./connection-owner.ts";
import { Relay } from "./relay.ts";
import { CONNECTION_EVENTS, isUpstreamsFault } from "./upstream-socket.ts";

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
  private readonly owner: TcpConnectionOwner<TcpConnection>;
  private readonly clientFd: Fd;
  private upstreamFd: Fd | undefined;
  private readonly trail: Trail;
  /** By which its flow to the upstream is known, should it come back; 0: it is not. */
  private flowHandle = 0;
  /** Once its upstream is connected. */
  relay: Relay | undefined;
  /** What its PROXY protocol header says beside the two ends. */
  private passed: PassedOn | undefined;
  private state: "header" | "queued" | "connecting" | "relaying" | "closed";
  private readonly timer = new Timer(() => this.onTimer());
  /** What the pool gave, until it is told how that went. */
  private picked: Upstream | undefined;
  /** How the last upstream failed that has. */
  private failure: End | undefined;
  private tried: readonly Upstream[] = NONE_TRIED;
  /** Edges of the client that came before there was a relay to tell. */
  private clientEdges = 0;
  private halfClosed = false;
  /** For a descriptor to connect with. */
  private waiting = false;
  /** The relay has more to do in the next turn of the loop. */
  private deferred = false;

  constructor(
    owner: TcpConnectionOwner<TcpConnection>,
    fd: Fd,
    id: number,
    client: SocketAddress,
    original: SocketAddress,
    trail: Trail,
  ) {
    this.owner = owner;
    this.trail = trail;
    this.clientFd = fd;
    this.id = id;
    this.client = client;
    this.original = original;
    this.startedAt = owner.loop.now;
    this.lastActive = this.startedAt;
    this.state = owner.task.acceptProxy === undefined ? "connecting" : "header";
  }

  get sent(): number {
    return this.relay?.sent ?? 0;
  }
  get received(): number {
    return this.relay?.received ?? 0;
  }

  /** What it does, for people. */
  get phase(): string {
    return this.halfClosed && this.state === "relaying" ? "half-closed" : this.state;
  }

  /** Registers the client and begins. */
  start(): void {
    const { loop, task } = this.owner;
    const handler = { onReady: (mask: number) => this.onClient(mask) };
    const added = loop.add(this.clientFd, CONNECTION_EVENTS, handler);
    if (added < 0)
      return this.close(ended("failed", "proxy", { call: "epoll_ctl", errno: -added }), true);
    if (this.state === "connecting") return this.enter();
    const allowed = task.acceptProxy ?? [];
    const { address } = this.client;
    const sender = { family: address.length === 4 ? 4 : 6, bytes: address } as const;
    if (allowed.length > 0 && !allowed.some((cidr) => cidrContains(cidr, sender))) {
      return this.abort("proxy-sender");
    }
    loop.timers.arm(this.timer, loop.now + task.headerTimeoutMs);
  }

  /** Ends it from outside. */
  abort(reason: EndReason): void {
    this.close(ended(reason), true);
  }

  private onClient(mask: number): void {
    if (this.state === "relaying") return this.onEdges("client", mask);
    this.clientEdges |= mask;
    if (mask & EPOLLERR) return this.close(ended("reset", "client"), true);
    if (this.state === "header") this.readHeader();
  }

  private onUpstream(mask: number): void {
    if (this.state === "relaying") return this.onEdges("upstream", mask);
    if (this.state !== "connecting") return;
    if (mask & (EPOLLERR | EPOLLHUP)) {
      const errno = Math.abs(sys.getsockopt(this.upstreamFd as Fd, SOL_SOCKET, SO_ERROR));
      if (errno !== 0) return this.onConnectFailed({ call: "connect", errno });
    }
    if (mask & EPOLLOUT) this.onConnected(mask);
  }

  private onEdges(side: "client" | "upstream", mask: number): void {
    this.relay?.ready(side, mask);
    this.run();
  }

  /** Waits for the header to be whole. */
  private readHeader(): void {
    const hasEnded = (this.clientEdges & EPOLLRDHUP) !== 0;
    const { headers, router } = this.owner;
    const header = headers.take(this.clientFd, hasEnded, router.pool === undefined);
    if (header === undefined) return;
    if ("fault" in header) return this.close(header.fault, true);
    const { source, destination } = header;
    this.passed = header.passed;
    if (source !== undefined && destination !== undefined) {
      this.client = source;
      this.original = destination;
    }
    this.enter();
  }

  /** Takes its place among the others, if there is one. */
  private enter(): void {
    const { loop, task } = this.owner;
    const verdict = this.owner.admit(this);
    if (verdict === "placed") return this.proceed();
    if (verdict !== "waits") return this.abort(verdict);
    this.state = "queued";
    loop.timers.arm(this.timer, loop.now + task.connectTimeoutMs);
  }

  /** It has a place. */
  proceed(): void {
    this.state = "connecting";
    this.connect();
  }

  /** Ends it if it has carried nothing for `part` of what it may be silent. */
  endIfIdle(part: number): void {
    const { now } = this.owner.loop;
    if (this.state !== "relaying" || this.lastActive + part * this.timeoutMs() > now) return;
    this.close(ended("idle-shortened"), this.relay?.holdsBytes === true);
  }

  /** To one of the pool that has not been tried; if there is none it ends with `end`. */
  private connect(end?: End): void {
    const { loop, router } = this.owner;
    const { pool, rules } = router;
    if (pool === undefined) {
      if (end !== undefined) return this.close(end, true);
      return this.connectTo(this.original);
    }
    if (this.tried.length < connectAttemptsMax) {
      const { address } = this.client;
      const family = upstreamFamily(rules, this.client);
      this.picked = pool.pick(address, family, this.id, this.tried, loop.now);
    }
    if (this.picked === undefined) {
      return this.close(end ?? ended("no-upstream"), true);
    }
    this.connectTo(this.picked.address);
  }

  private connectTo(upstream: SocketAddress): void {
    const { loop, task } = this.owner;
    const { rules } = this.owner.router;
    const choice = dialFor(rules, this.client, upstream);
    // Of a name with addresses of both families the one that failed is to blame.
    if ("refusal" in choice) {
      return this.connectElsewhere(this.failure ?? dialRejected(choice.refusal));
    }
    if (choice.unspoofed !== undefined) {
      this.owner.warn(`${choice.unspoofed}: connecting from our own address`);
    }
    this.upstream = choice.upstream;
    this.source = sourceName(choice, rules);
    const fd = this.owner.upstreamSockets.open(choice, this.trail.hopLimit);
    if (typeof fd !== "number") return this.openFailed(fd);
    this.upstreamFd = fd;
    this.flowHandle = this.owner.loops.entered(this.upstreamFd, upstream, this.trail.visits + 1);
    if (this.waiting) this.owner.goesOn(this);
    this.waiting = false;
    loop.timers.arm(this.timer, loop.now + task.connectTimeoutMs);
    const added = loop.add(this.upstreamFd, CONNECTION_EVENTS, {
      onReady: (mask) => this.onUpstream(mask),
    });
    if (added < 0) this.onConnectFailed({ call: "epoll_ctl", errno: -added });
  }

  /** With no descriptor left for it the client waits here, as others do in the backlog. */
  private openFailed(failure: CallFailure): void {
    const { loop, task } = this.owner;
    const mayWait = isShortage(failure.errno) && loop.now < this.startedAt + task.connectTimeoutMs;
    if (!mayWait) return this.onConnectFailed(failure);
    this.waiting = true;
    this.owner.waits(this, describeFailure(failure));
    loop.timers.arm(this.timer, loop.now + acceptPauseMs);
  }

  /** There may be a descriptor for one that waits. */
  connectAgain(): void {
    if (this.waiting) this.connectTo(this.picked?.address ?? this.original);
  }

  private onConnectFailed(failure: CallFailure): void {
    const isTheirs = isUpstreamsFault(failure);
    const by = isTheirs ? "upstream" : "proxy";
    this.connectElsewhere(ended("connect-failed", by, failure), isTheirs);
  }

  /** Another upstream stands in for one that is of no use, while there is one. */
  private connectElsewhere(end: End, failed = false): void {
    const { loop, router } = this.owner;
    if (failed) this.failure = end;
    this.closeUpstream();
    if (this.picked !== undefined) {
      this.tried = [...this.tried, this.picked];
      const client = this.source === "client" ? this.client.address : undefined;
      if (failed) router.pool?.failed(this.picked, this.id, loop.now, endText(end, "tcp"), client);
      else router.pool?.closed(this.picked, this.id);
      this.picked = undefined;
    }
    this.connect(end);
  }

  private onConnected(mask: number): void {
    const { kernel, loop, router } = this.owner;
    const { picked, client } = this;
    if (picked !== undefined) router.pool?.connected(picked, client.address, loop.now);
    if (!this.sendHeader()) return this.abort("proxy-header-unsent");
    this.state = "relaying";
    this.owner.connected(this);
    const mayWiden = this.owner.mayWiden(this);
    this.relay = new Relay(kernel, this.clientFd, this.upstreamFd as Fd, mayWiden);
    this.lastActive = loop.now;
    loop.timers.arm(this.timer, loop.now + this.timeoutMs());
    // Behind a header there may be data for which there will be no other edge.
    const behindHeader = this.owner.task.acceptProxy === undefined ? 0 : EPOLLIN;
    this.relay.ready("client", this.clientEdges | behindHeader);
    const upstreamFd = this.upstreamFd as Fd;
    this.onEdges("upstream", mask);
    this.acknowledge(upstreamFd);
  }

  /**
   * Acknowledges the upstream's SYN-ACK, unless bytes of the client have done so: it is held back
   * for them (TCP_QUICKACK), and an upstream that is to speak first must not wait for it.
   */
  private acknowledge(upstreamFd: Fd): void {
    const hasSent = this.sent > 0 || this.owner.task.sendProxy !== undefined;
    if (this.state !== "relaying" || hasSent) return;
    sys.setsockopt(upstreamFd, IPPROTO_TCP, TCP_QUICKACK, 1);
  }

  private sendHeader(): boolean {
    const { headers, task } = this.owner;
    const { sendProxy } = task;
    if (sendProxy === undefined) return true;
    const { client, original, passed } = this;
    return headers.send(this.upstreamFd as Fd, sendProxy, client, original, passed);
  }

  private run(): void {
    if (this.state !== "relaying" || this.relay === undefined) return;
    const { loop } = this.owner;
    this.lastActive = loop.now;
    const state = this.relay.run();
    if (this.flowHandle !== 0 && this.relay.received > 0) this.forgetFlow();
    switch (state) {
      case "open":
        return this.noteHalfClose();
      case "more":
        return this.defer();
      case "done":
        return this.close(ended("done", this.relay.firstEnd), false);
      case "failed":
        return this.close(socketFailed(this.relay.failedSide ?? "proxy", this.relay.errno), true);
    }
  }

  /** From the half-close on another time-out counts, and the timer is armed for the longer one. */
  private noteHalfClose(): void {
    if (this.halfClosed || this.relay?.isHalfClosed !== true) return;
    this.halfClosed = true;
    const { loop } = this.owner;
    loop.timers.arm(this.timer, loop.now + this.timeoutMs());
  }

  private defer(): void {
    if (this.deferred) return;
    this.deferred = true;
    this.owner.loop.defer(() => {
      this.deferred = false;
      this.run();
    });
  }

  private timeoutMs(): number {
    const { task } = this.owner;
    if (!this.halfClosed) return task.idleTimeoutMs;
    return Math.min(task.idleTimeoutMs, task.halfClosedTimeoutMs);
  }

  /** Activity only notes the time; the timer looks at it when it fires, and arms itself again. */
  private onTimer(): void {
    const { loop } = this.owner;
    if (this.state === "header") return this.abort("proxy-header-timeout");
    if (this.state === "queued") return this.abort("no-room");
    if (this.waiting) return this.connectAgain();
    if (this.state === "connecting") return this.connectElsewhere(this.owner.timedOut(this), true);
    const deadline = this.lastActive + this.timeoutMs();
    // An end, not a reset, unless the other side could take it for the end of what is on its way.
    if (deadline > loop.now) return loop.timers.arm(this.timer, deadline);
    this.close(ended("idle-timeout"), this.relay?.holdsBytes === true);
  }

  /** Nothing that comes back to us is ever answered: whatever has been is no loop. */
  private forgetFlow(): void {
    if (this.flowHandle !== 0) this.owner.loops.flows.forget(this.flowHandle);
    this.flowHandle = 0;
  }

  private closeUpstream(): void {
    this.forgetFlow();
    if (this.upstreamFd !== undefined) this.owner.loop.close(this.upstreamFd);
    this.upstreamFd = undefined;
  }

  /** Closes both sockets, with a reset if what was on its way has been lost. */
  private close(end: End, reset: boolean): void {
    if (this.state === "closed") return;
    this.end = end;
    this.state = "closed";
    this.waiting = false;
    this.owner.loop.timers.disarm(this.timer);
    this.relay?.release();
    if (reset) {
      sys.setLinger(this.clientFd, true, 0);
      if (this.upstreamFd !== undefined) sys.setLinger(this.upstreamFd, true, 0);
    }
    this.closeUpstream();
    if (this.picked !== undefined) this.owner.router.pool?.closed(this.picked, this.id);
    this.owner.loop.close(this.clientFd);
    this.owner.closed(this);
  }
}
