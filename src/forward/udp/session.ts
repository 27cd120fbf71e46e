/** One session: who talks to whom, its sockets and its counts. One object for each. */

import type { Envelope } from "../../../ffi/send-batch.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { busyDatagrams } from "../../engine/limits.ts";
import type { EventLoop, Handler } from "../../engine/loop.ts";
import { Timer } from "../../engine/timers.ts";
import type { PassedOn } from "../../proto/proxy-header.ts";
import type { End } from "../../workers/end-reason.ts";
import type { RateSample } from "../../workers/rates.ts";
import type { Recorded } from "../../workers/records.ts";
import type { Upstream } from "../upstream.ts";
import type { UdpListener } from "./listener.ts";
import type { Outlet } from "./outlets.ts";
import type { SessionTable } from "./session-table.ts";

/** The events of a session's sockets and its timer, and the functions that handle them. */
export interface SessionEvents {
  /** The socket towards the upstream is readable. */
  readonly upstreamReadable: (session: Session) => void;
  /** The session's own socket towards the client is readable. */
  readonly clientReadable: (session: Session) => void;
  readonly timerFired: (session: Session) => void;
}

/**
 * How a session's answers leave: through the listener, if the client has sent to its port; through
 * a socket that is bound to the original destination and shared by all sessions to it; through the
 * session's own socket, which is also connected to the client and receives its next datagrams; or
 * as raw packets, where no such socket can be bound.
 */
export type ReplyMode = "unknown" | "listener" | "shared" | "own" | "raw";

/** Who talks to whom. */
export interface SessionEnds {
  readonly id: number;
  readonly listener: UdpListener;
  /** The two ends of the datagrams as they arrive. */
  readonly sender: SocketAddress;
  readonly destination: SocketAddress;
  /** The same, unless a header of the PROXY protocol names others. */
  readonly client: SocketAddress;
  readonly originalDestination: SocketAddress;
  /** The pool's choice; undefined without a pool. */
  readonly picked: Upstream | undefined;
  /** How often the client's datagrams have passed this host. */
  readonly visits: number;
  /** The part of the client's header that the upstream gets, where one is sent. */
  readonly passed: PassedOn | undefined;
}

/** All that a session has when it begins. */
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
  readonly connectMs = -1;
  readonly retries = 0;
  readonly start: SessionStart;
  readonly startedAt: number;
  readonly timer: Timer;
  readonly fromUpstream: Flow;
  readonly fromClient: Flow;
  replyMode: ReplyMode = "unknown";
  /** Its own socket towards the client, and the socket by which answers leave. */
  ownFd: Fd | undefined;
  replyFd: Fd | undefined;
  /** Shared with the other sessions to its destination, from its first answer on. */
  outlet: Outlet | undefined;
  /** For answers through a socket that is not connected to the client. */
  envelope: Envelope | undefined;
  /** The entry of its flow to the upstream in `OutboundFlows`; 0: none. */
  flowHandle = 0;
  isEnded = false;
  /** The errno of an ICMP error. It ends the session after the older answers have been read. */
  refusal = 0;
  /** The pool knows that the upstream has failed, or that it is silent. */
  isFailed = false;
  isSilent = false;
  /** The hop limit of datagrams to the upstream; 0: the kernel's. */
  hopLimit = 0;
  /** The PROXY protocol header for the next datagram to the upstream. */
  header: Uint8Array | undefined;
  /** Datagrams and bytes to the upstream, and to the client. */
  sentDatagrams = 0;
  sent = 0;
  receivedDatagrams = 0;
  received = 0;
  end: End | undefined;
  sample: RateSample | undefined;
  /** The number of datagrams both ways that measures its rate next, and when it was measured. */
  busyAt = busyDatagrams;
  busySince: number;
  isBusy = false;
  /** UDP_SEGMENT has not been refused towards the upstream, and towards the client. */
  maySegmentOut = true;
  maySegmentIn = true;
  /** Its first and its last message in the batch that is being forwarded, -1 for none. */
  head = -1;
  tail = -1;
  /** Its own socket has not been read yet; and the listener's `emptied` when it was opened. */
  isNew = false;
  emptiedBefore = 0;
  private readonly table: SessionTable;

  constructor(
    loop: EventLoop,
    table: SessionTable,
    start: SessionStart,
    header: Uint8Array | undefined,
    { upstreamReadable, clientReadable, timerFired }: SessionEvents,
  ) {
    this.table = table;
    this.start = start;
    this.startedAt = loop.now;
    this.busySince = loop.now;
    this.header = header;
    this.timer = new Timer(() => timerFired(this));
    this.fromUpstream = new Flow(loop, this, upstreamReadable);
    this.fromClient = new Flow(loop, this, clientReadable);
  }

  get id(): number {
    return this.start.id;
  }
  get client(): SocketAddress {
    return this.start.client;
  }
  get original(): SocketAddress {
    return this.start.originalDestination;
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
  private readonly loop: EventLoop;
  private readonly session: Session;
  private readonly onReadable: (session: Session) => void;
  private isDeferred = false;

  constructor(loop: EventLoop, session: Session, onReadable: (session: Session) => void) {
    this.loop = loop;
    this.session = session;
    this.onReadable = onReadable;
  }

  onReady(): void {
    if (!this.session.isEnded) this.onReadable(this.session);
  }

  /** Reads on in the next turn: there is more to read, for which no other edge comes. */
  defer(): void {
    if (this.isDeferred) return;
    this.isDeferred = true;
    this.loop.defer(() => {
      this.isDeferred = false;
      this.onReady();
    });
  }
}
