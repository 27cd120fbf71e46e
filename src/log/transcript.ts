/**
 * The reports of Workers, as text in the manner of the seed's transcript or as JSON, one object a
 * line. Pure.
 */

import { describeErrno, errnoName } from "../../ffi/errno.ts";
import { printable, printJson, printLine } from "../net/printable.ts";
import type { End, EndReason } from "../workers/end-reason.ts";
import type { WorkerEvent } from "../workers/protocol.ts";
import {
  connectionFields,
  connectionLine,
  countersFields,
  countersLine,
  endFields,
  snakeCase,
} from "./connection-lines.ts";
import { type LevelName, levelOf } from "./level.ts";

/** Renders events one after the other; knows whose data the reader saw last. */
export interface Transcript {
  /** The lines of one event, each ended; empty if there is nothing to show. */
  render(event: WorkerEvent): string;
}

/** The text in front of each line; by default nothing. */
export interface LineHeads {
  /** For its time in ms since 1970. */
  readonly stamp?: (time: number) => string;
  /** In front of that, for its level; of each line of received bytes as well. */
  readonly priority?: (level: LevelName) => string;
  /** In front of its text, for its service. */
  readonly prefixOf?: (service: string | undefined) => string;
}

const nothing = () => "";

/**
 * Text for people. Received bytes follow the line of their connection; when others have come in
 * between, a line says again whose they are.
 */
export class TextTranscript implements Transcript {
  private readonly protocol: "tcp" | "udp";
  private readonly stamp: (time: number) => string;
  private readonly priority: (level: LevelName) => string;
  private readonly prefixOf: (service: string | undefined) => string;
  private last = -1;

  constructor(
    protocol: "tcp" | "udp",
    { stamp = nothing, priority = nothing, prefixOf = nothing }: LineHeads = {},
  ) {
    this.protocol = protocol;
    this.stamp = stamp;
    this.priority = priority;
    this.prefixOf = prefixOf;
  }

  render(event: WorkerEvent): string {
    const head = this.head(event);
    const bytes = "bytes" in event ? printable(event.bytes) : "";
    const body = bytes === "" ? "" : bytes.replace(/^(?=.)/gm, this.priority("info"));
    if (head === "") return body;
    return `${this.priority(levelOf(event))}${this.stamp(timeOf(event))}${head}\n${body}`;
  }

  /** The line about the event; the bytes that it has follow. Empty: it has none. */
  private head(event: WorkerEvent): string {
    switch (event.kind) {
      case "connection":
        this.last = event.id;
        return `[ ] Connection from tcp://${event.client} to tcp://${event.local}`;
      case "data": {
        const known = this.last === event.id;
        this.last = event.id;
        return known ? "" : `[ ] Data from tcp://${event.client} to tcp://${event.local}`;
      }
      case "closed":
      case "refused": {
        if ("idleMs" in event) return connectionLine(event, this.prefixOf(event.service));
        const word = closing[event.end.reason];
        if (word === undefined) return "";
        this.last = -1;
        return `[-] ${word}: tcp://${event.client} to tcp://${event.local}`;
      }
      case "datagram":
        this.last = -1;
        return `[ ] Datagram from udp://${event.client} to udp://${event.local}`;
      case "accepted":
      case "reached":
      case "forwarded":
      case "open":
        return connectionLine(event, this.prefixOf(event.service));
      case "counters":
        return countersLine(event.worker, event.counters);
      case "received":
      case "connected":
      // The main thread logs it, with what it means for the pool.
      case "health":
      case "tableEnd":
        return "";
      case "fault":
        return `[!] ${this.protocol}: ${describeErrno(event.errno)}`;
      case "died":
        return died(event);
      case "lost":
        return `[!] ${event.lines} lines of the log were lost: it was not read or written in time`;
      case "warning":
        return `[!] ${this.prefixOf(event.service)}${printLine(event.text)}`;
    }
  }
}

/** The ends of `listen`'s connections that have a line of their own. */
const closing: Partial<Record<EndReason, string>> = {
  reset: "Reset",
  "idle-timeout": "Silent for too long",
  "idle-shortened": "Silent for too long",
  failed: "Failed",
  "no-place": "Refused",
  "client-limit": "Refused",
  "client-rate": "Refused",
  evicted: "Ended to make room",
  stalled: "Ended to free memory",
};

function died(event: WorkerEvent & { kind: "died" }): string {
  const { worker, error, lost, lostSessions, isReplaced } = event;
  const sessions = lostSessions > 0 ? ` and ${lostSessions} sessions` : "";
  const after = isReplaced ? ", another takes its place" : "";
  const head = `[!] Worker ${worker} died with ${lost} connections${sessions}${after}`;
  return `${head}: ${printLine(error)}`;
}

/** More fields of a service's lines, by its name: its pool, the configuration's generation. */
export type AboutService = (service: string) => Record<string, unknown>;

const nothingMore: AboutService = () => ({});

/** JSON for programs: `event`, `time`, `level`, then what belongs to the event. */
export class JsonTranscript implements Transcript {
  private readonly protocol: "tcp" | "udp";
  private readonly clock: () => number;
  private readonly about: AboutService;

  constructor(
    protocol: "tcp" | "udp",
    clock: () => number = Date.now,
    about: AboutService = nothingMore,
  ) {
    this.protocol = protocol;
    this.clock = clock;
    this.about = about;
  }

  render(event: WorkerEvent): string {
    const fields = eventFields(event, this.protocol, this.about);
    return fields === undefined ? "" : jsonLine(fields, new Date(timeOf(event, this.clock)));
  }
}

/** When something happened, in ms since 1970. */
export function timeOf(event: WorkerEvent, clock: () => number = Date.now): number {
  return "idleMs" in event ? event.time : clock();
}

/**
 * What happened as the fields of a JSON object, without its time; undefined if there is nothing to
 * show. `protocol` is that of what Workers do not name the protocol of.
 */
export function eventFields(
  event: WorkerEvent,
  protocol: "tcp" | "udp",
  about: AboutService = nothingMore,
): Record<string, unknown> | undefined {
  if (event.kind === "tableEnd" || event.kind === "health") return undefined;
  const service = "service" in event ? event.service : undefined;
  const level = levelOf(event);
  const more = service === undefined ? undefined : about(service);
  if (event.kind === "counters") {
    return { level, ...countersFields(event.worker, event.counters) };
  }
  if ("idleMs" in event) return { level, ...connectionFields(event), ...more };
  const { kind, ...rest } = event;
  const fields: Record<string, unknown> = {
    event: events[kind] ?? kind,
    level,
  };
  for (const [key, value] of Object.entries(rest)) {
    if (value instanceof Uint8Array) Object.assign(fields, payload(value));
    else if (key === "end") Object.assign(fields, endFields(value as End));
    else if (key === "errno") fields.error = errnoName(value as number);
    else fields[names[key] ?? snakeCase(key)] = value;
  }
  // A Worker may carry both protocols, and the text names the one that it is about.
  if (kind !== "warning" && kind !== "died" && kind !== "lost") {
    fields.protocol = kind === "datagram" ? "udp" : protocol;
  }
  return Object.assign(fields, more);
}

/** Events of `listen` by the names that the same events have for a proxied connection. */
const events: Readonly<Record<string, string>> = { connection: "accepted", closed: "forwarded" };

/** Fields that JSON has by another name. */
const names: Readonly<Record<string, string>> = {
  local: "original_destination",
  isReplaced: "replaced",
};

/** An event as one line of JSON: `event` and `time` come first. */
export function jsonLine(
  { event, ...fields }: { event?: unknown; [field: string]: unknown },
  time: Date = new Date(),
): string {
  return `${printJson({ event, time: time.toISOString(), ...fields })}\n`;
}

/** Bytes for JSON: as text if they are UTF-8, otherwise in base 64. */
function payload(bytes: Uint8Array): Record<string, unknown> {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return { bytes: bytes.length, text };
  } catch {
    return { bytes: bytes.length, base64: Buffer.from(bytes).toString("base64") };
  }
}
