/** One session: who talks to whom, its sockets, and what has passed. One object for each. */

import type { Envelope } from "../../../ffi/send-batch.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import type { EventLoop, Handler } from "../../engine/loop.ts";
import { Timer } from "../../engine/timers.ts";
import type { PassedOn } from "../../proto/proxy-header.ts";
import type { End } from "../../workers/end-reason.ts";
import type { Recorded } from "../../workers/records.ts";
import type { Upstream } from "../upstream-pool.ts";
import type { Outlet } from "./outlets.ts";
import type { SessionTable } from "./session-table.ts";

/** Who is told of a session's events. */
export interface SessionOwner {
  readonly loop: EventLoop;
  /** The socket towards the upstream can be read. */
  upstreamReady(session: Session): void;
  /** The socket towards the client can be read. */
  clientReady(session: Session): void;
  /** Its timer has fired. */
  timerFired(session: Session): void;
  /** It is over, and its number in the table is free. */
  ended(session: Session): void;
}

/**
 * How answers leave: through the listener, whose port is the one that was asked; through a socket
 * that is bound to the original destination and sends for all sessions with it; through the
 * session's own one, which is connected to the client as well, so that the client's following
 * datagrams arrive there; or as raw packets, where no such socket can be bound.
 */
export type Way = "unknown" | "listener" | "shared" | "own" | "raw";

/** The listener of a session, as far as sessions know it. */
export interface SessionIngress {
  readonly fd: Fd;
  readonly port: number;
  readonly domain: number;
  /** How often its queue has been seen empty. */
  readonly emptied: number;
  /** Sends on what its batch holds for one session. */
  flush(session: Session): void;
  /** Takes all that was queued before now. */
  drain(): void;
  /** Takes first what a session's own socket holds, and others' too; true if there is more. */
  takeStrays(session: Session, fd: Fd): boolean;
}

/** Who talks to whom. */
export interface SessionEnds {
  readonly id: number;
  readonly ingress: SessionIngress;
  /** The two ends of the datagrams as they arrive. */
  readonly peer: SocketAddress;
  readonly reached: SocketAddress;
  /** The same, unless a header of the PROXY protocol says otherwise. */
  readonly client: SocketAddress;
  readonly original: SocketAddress;
  /** What the pool of upstreams has given; undefined without a pool. */
  readonly picked: Upstream | undefined;
  /** How often what the client sends has been here. */
  readonly visits: number;
  /** What the client's header has for the upstream, where one is sent. */
  readonly passed: PassedOn | undefined;
}

/** What a session is begun with. */
export interface SessionStart extends SessionEnds {
  /** Its number in the table. */
  readonly slot: number;
  readonly upstream: SocketAddress;
  /** `client`, `self` or `address`: whose address the upstream sees. */
  readonly source: string;
  readonly upstreamFd: Fd;
  /** The client's port, if that socket has it; 0: one of the kernel's choice. */
  readonly keptPort: number;
}

export class Session implements Recorded {
  readonly protocol = "udp";
  readonly start: SessionStart;
  readonly startedAt: number;
  readonly timer: Timer;
  readonly fromUpstream: Flow;
  readonly fromClient: Flow;
  way: Way = "unknown";
  /** Its own socket towards the client, and the one by which answers leave. */
  replyFd: Fd | undefined;
  answerFd: Fd | undefined;
  /** What it shares with the other sessions to its destination, from its first answer on. */
  outlet: Outlet | undefined;
  /** For answers through a socket that is not connected to the client. */
  envelope: Envelope | undefined;
  /** By which its flow to the upstream is known, should it come back; 0: it is not. */
  flowHandle = 0;
  isEnded = false;
  /** The errno of an ICMP error that ends it once what the upstream has sent before is read. */
  refusal = 0;
  /** The pool knows that the upstream has failed, or that it is silent. */
  isFailed = false;
  isSilent = false;
  /** The hop limit of what goes to the upstream; 0: the kernel's. */
  hopLimit = 0;
  /** What of the PROXY protocol is to be sent in front of the next datagram to the upstream. */
  header: Uint8Array | undefined;
  /** Datagrams and bytes to the upstream, and to the client. */
  sentDatagrams = 0;
  sent = 0;
  receivedDatagrams = 0;
  received = 0;
  end: End | undefined;
  /** Datagrams both ways at which its rate is looked at, and when they began to be counted. */
  busyAt: number;
  busySince: number;
  isBusy = false;
  /** UDP_SEGMENT has not been refused towards the upstream, and towards the client. */
  maySegmentOut = true;
  maySegmentIn = true;
  /** Its datagrams in a listener's batch, the first and the last, -1 for none, and which one's. */
  holder: SessionIngress | undefined;
  head = -1;
  tail = -1;
  /** Nothing was read at its reply socket yet, and how often its listener had been empty then. */
  isNew = false;
  emptiedBefore = 0;
  private readonly table: SessionTable;

  constructor(
    owner: SessionOwner,
    table: SessionTable,
    start: SessionStart,
    busyAt: number,
    header: Uint8Array | undefined,
  ) {
    this.table = table;
    this.start = start;
    this.startedAt = owner.loop.now;
    this.busyAt = busyAt;
    this.busySince = owner.loop.now;
    this.header = header;
    this.timer = new Timer(() => owner.timerFired(this));
    this.fromUpstream = new Flow(owner, this, true);
    this.fromClient = new Flow(owner, this, false);
  }

  get id(): number {
    return this.start.id;
  }
  get client(): SocketAddress {
    return this.start.client;
  }
  get original(): SocketAddress {
    return this.start.original;
  }
  get upstream(): SocketAddress {
    return this.start.upstream;
  }
  get source(): string {
    return this.start.source;
  }
  get phase(): string {
    return this.table.phase(this.start.slot);
  }
  get lastActive(): number {
    return this.table.lastUse(this.start.slot);
  }
}

/** One of a session's two sockets on the loop, edge-triggered. */
class Flow implements Handler {
  private readonly owner: SessionOwner;
  private readonly session: Session;
  private readonly isUpstream: boolean;
  private isDeferred = false;

  constructor(owner: SessionOwner, session: Session, isUpstream: boolean) {
    this.owner = owner;
    this.session = session;
    this.isUpstream = isUpstream;
  }

  onReady(): void {
    if (this.session.isEnded) return;
    if (this.isUpstream) this.owner.upstreamReady(this.session);
    else this.owner.clientReady(this.session);
  }

  /** There is more to read for which no other edge will come: in the next turn. */
  defer(): void {
    if (this.isDeferred) return;
    this.isDeferred = true;
    this.owner.loop.defer(() => {
      this.isDeferred = false;
      this.onReady();
    });
  }
}
