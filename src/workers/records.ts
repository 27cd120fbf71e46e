/**
 * The reports of a Worker about connections and sessions, as numbers: a record of fixed size for
 * each, which costs it no text and no object. The main thread makes text of them. Pure.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { formatConnectionId, type IdOrigin } from "./connection-id.ts";
import {
  type End,
  type EndedBy,
  ended,
  endedByList,
  endReasonCodes,
  endReasonList,
} from "./end-reason.ts";
import type { ConnectionEvent, WorkerEvent } from "./protocol.ts";
import type { RecordBlock } from "./record-block.ts";

/**
 * A connection, or a session of UDP, that a record can be made of. Times are in ms of the Worker's
 * monotonic clock.
 */
export interface Recorded {
  readonly protocol: "tcp" | "udp";
  /** Counts the connections and sessions of its Worker. */
  readonly id: number;
  /** The whole id, if another process has given it (an upgrade). */
  readonly knownAs?: string | undefined;
  readonly client: SocketAddress;
  readonly original: SocketAddress;
  readonly upstream: SocketAddress | undefined;
  /** `client`, `self` or `address`; empty before there is one. */
  readonly source: string;
  /**
   * Its state: `header`, `connecting`, `relaying`, `half-closed`, `closed`; of a session
   * `unanswered`, `answered`, `confirmed`.
   */
  readonly phase: string;
  /** Bytes to the upstream, and to the client. */
  readonly sent: number;
  readonly received: number;
  /** 0 of a connection. */
  readonly sentDatagrams: number;
  readonly receivedDatagrams: number;
  /** How long it took to connect to the upstream; negative: it is not connected, or UDP. */
  readonly connectMs: number;
  /** Upstreams to which connecting failed before. */
  readonly retries: number;
  readonly startedAt: number;
  readonly lastActive: number;
  /** Undefined while it is open. */
  readonly end: End | undefined;
}

export type RecordKind = ConnectionEvent["kind"];

const kinds: readonly RecordKind[] = ["accepted", "reached", "forwarded", "refused", "open"];
const protocols = ["tcp", "udp"] as const;

const SIZE = 160;
const KIND = 0;
const ENDED_BY = 1;
const SOURCE = 2;
const STATE = 4;
const DETAIL = 6;
const ID = 8;
const TIME = 16;
const AGE = 24;
const IDLE = 32;
const SENT = 40;
const RECEIVED = 48;
const CLIENT = 56;
const ORIGINAL = 80;
const UPSTREAM = 104;
const SENT_DATAGRAMS = 128;
const RECEIVED_DATAGRAMS = 136;
const PROTOCOL = 144;
/** The code of why it ended, after which ENDED_BY, DETAIL, ERRNO and CALL count; or OPEN. */
const REASON = 145;
const ERRNO = 146;
const CALL = 148;
/** A word, empty for none. */
const SERVICE = 150;
const CONNECT = 152;
const RETRIES = 156;
/** A word, empty for none. */
const KNOWN_AS = 158;
const OPEN = 255;

/** Within an endpoint of 24 bytes. A length of 0: there is none. */
const LENGTH = 0;
const PORT = 2;
const SCOPE = 4;
const ADDRESS = 8;

/** Collects records until they are taken away. */
export class RecordWriter {
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private words = new Map<string, number>();
  private count = 0;

  /** Room for `capacity` records; the caller has to `take` before it is used up. */
  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity * SIZE);
    this.view = new DataView(this.bytes.buffer);
  }

  get length(): number {
    return this.count;
  }

  /**
   * `now` on the Worker's monotonic clock, `time` in ms since 1970: the same moment; `service` is
   * the name of the service, or empty.
   */
  add(kind: RecordKind, connection: Recorded, now: number, time: number, service = ""): void {
    const { view } = this;
    const at = this.count++ * SIZE;
    view.setUint8(at + KIND, kinds.indexOf(kind));
    view.setUint16(at + SOURCE, this.word(connection.source), true);
    view.setUint16(at + STATE, this.word(connection.phase), true);
    view.setFloat64(at + ID, connection.id, true);
    view.setUint16(at + KNOWN_AS, this.word(connection.knownAs ?? ""), true);
    view.setFloat64(at + TIME, time, true);
    view.setFloat64(at + AGE, now - connection.startedAt, true);
    view.setFloat64(at + IDLE, now - connection.lastActive, true);
    view.setFloat64(at + SENT, connection.sent, true);
    view.setFloat64(at + RECEIVED, connection.received, true);
    view.setFloat64(at + SENT_DATAGRAMS, connection.sentDatagrams, true);
    view.setFloat64(at + RECEIVED_DATAGRAMS, connection.receivedDatagrams, true);
    view.setUint16(at + SERVICE, this.word(service), true);
    view.setFloat32(at + CONNECT, connection.connectMs, true);
    view.setUint16(at + RETRIES, Math.min(connection.retries, 0xffff), true);
    view.setUint8(at + PROTOCOL, protocols.indexOf(connection.protocol));
    this.end(at, connection.end);
    this.endpoint(at + CLIENT, connection.client);
    this.endpoint(at + ORIGINAL, connection.original);
    this.endpoint(at + UPSTREAM, connection.upstream);
  }

  /** The records that were added since the last time; the caller owns them. */
  take(): RecordBlock {
    const bytes = this.bytes.slice(0, this.count * SIZE);
    const words = [...this.words.keys()];
    this.words = new Map();
    this.count = 0;
    return { kind: "records", bytes, words };
  }

  private word(text: string): number {
    const known = this.words.get(text);
    if (known !== undefined) return known;
    const number = this.words.size;
    this.words.set(text, number);
    return number;
  }

  private end(at: number, end: End | undefined): void {
    const { view } = this;
    view.setUint8(at + REASON, end === undefined ? OPEN : endReasonCodes[end.reason]);
    if (end === undefined) return;
    view.setUint8(at + ENDED_BY, endedByList.indexOf(end.by));
    view.setUint16(at + DETAIL, this.word(end.detail), true);
    view.setUint16(at + ERRNO, end.failure?.errno ?? 0, true);
    view.setUint16(at + CALL, this.word(end.failure?.call ?? ""), true);
  }

  private endpoint(at: number, socket: SocketAddress | undefined): void {
    this.view.setUint8(at + LENGTH, socket === undefined ? 0 : socket.address.length);
    if (socket === undefined) return;
    this.view.setUint16(at + PORT, socket.port, true);
    this.view.setUint32(at + SCOPE, socket.scopeId, true);
    for (let i = 0; i < socket.address.length; i++) {
      this.bytes[at + ADDRESS + i] = socket.address[i] as number;
    }
  }
}

/** How many records `block` holds. */
export function recordsIn({ bytes }: RecordBlock): number {
  return bytes.length / SIZE;
}

/** The events that a block of records holds. */
export function readRecords(
  { bytes, words }: RecordBlock,
  { worker, generation }: IdOrigin,
): ConnectionEvent[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events: ConnectionEvent[] = [];
  for (let at = 0; at < bytes.length; at += SIZE) {
    const word = (field: number) => words[view.getUint16(at + field, true)] as string;
    events.push({
      kind: kinds[view.getUint8(at + KIND)] as RecordKind,
      ...(word(SERVICE) === "" ? {} : { service: word(SERVICE) }),
      worker,
      protocol: protocols[view.getUint8(at + PROTOCOL)] as "tcp" | "udp",
      id:
        word(KNOWN_AS) ||
        formatConnectionId({ worker, sequence: view.getFloat64(at + ID, true), generation }),
      time: view.getFloat64(at + TIME, true),
      state: word(STATE),
      client: endpointText(bytes, view, at + CLIENT) as string,
      local: endpointText(bytes, view, at + ORIGINAL) as string,
      upstream: endpointText(bytes, view, at + UPSTREAM),
      source: word(SOURCE),
      clientBytes: view.getFloat64(at + SENT, true),
      upstreamBytes: view.getFloat64(at + RECEIVED, true),
      clientDatagrams: view.getFloat64(at + SENT_DATAGRAMS, true),
      upstreamDatagrams: view.getFloat64(at + RECEIVED_DATAGRAMS, true),
      ...dialed(view.getFloat32(at + CONNECT, true), view.getUint16(at + RETRIES, true)),
      ms: Math.round(view.getFloat64(at + AGE, true)),
      idleMs: Math.round(view.getFloat64(at + IDLE, true)),
      end: readEnd(view, at, word),
    });
  }
  return events;
}

/** How the upstream was reached. */
function dialed(
  connectMs: number,
  retries: number,
): Pick<ConnectionEvent, "connectMs" | "retries"> {
  return {
    ...(connectMs < 0 ? {} : { connectMs: Math.round(connectMs * 10) / 10 }),
    ...(retries === 0 ? {} : { retries }),
  };
}

function readEnd(view: DataView, at: number, word: (field: number) => string): End | undefined {
  const reason = endReasonList[view.getUint8(at + REASON)];
  if (reason === undefined) return undefined;
  const errno = view.getUint16(at + ERRNO, true);
  const failure = errno === 0 ? undefined : { call: word(CALL), errno };
  const by = endedByList[view.getUint8(at + ENDED_BY)] as EndedBy;
  return ended(reason, by, failure, word(DETAIL));
}

/** `events` of one Worker with every block of records as the events that it holds. */
export function withRecords(
  events: readonly (WorkerEvent | RecordBlock)[],
  origin: IdOrigin,
): WorkerEvent[] {
  return events.flatMap((event) =>
    event.kind === "records" ? readRecords(event, origin) : [event],
  );
}

function endpointText(bytes: Uint8Array, view: DataView, at: number): string | undefined {
  const length = bytes[at + LENGTH] as number;
  if (length === 0) return undefined;
  const address = bytes.subarray(at + ADDRESS, at + ADDRESS + length);
  const port = view.getUint16(at + PORT, true);
  return formatSocketAddress({ address, port, scopeId: view.getUint32(at + SCOPE, true) });
}
