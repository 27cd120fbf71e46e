/** Forwarded connections and sessions, and counters, as lines for people and as JSON. Pure. */

import { errnoName } from "../../ffi/errno.ts";
import type { Counters } from "../workers/counters.ts";
import { type End, endText, isUsual } from "../workers/end-reason.ts";
import type { ConnectionEvent } from "../workers/protocol.ts";

/**
 * The line for people about a forwarded connection or session; `prefix` comes in
 * front of its text.
 */
export function connectionLine(event: ConnectionEvent, prefix = ""): string {
  const { kind, protocol, client, local, upstream, ms, end } = event;
  const ends = `${protocol}://${client} to ${protocol}://${local}`;
  switch (kind) {
    case "accepted":
      return `[.] ${prefix}Accepted: ${ends}`;
    case "reached":
      return (
        `[.] ${prefix}Reached ${protocol}://${upstream}${sourceText(event)}, ` + `${ms} ms: ${ends}`
      );
    case "open":
      return (
        `[=] ${prefix}${event.id}, ${event.state}: ${ends}${viaText(event)}, ` +
        `${bytesText(event)}, ${ms} ms old, idle for ${event.idleMs} ms`
      );
    case "forwarded":
    case "refused": {
      const sign = end === undefined || isUsual(end, protocol) ? " " : "-";
      const text = end && endText(end, protocol);
      return `[${sign}] ${prefix}${ends}${viaText(event)}, ${bytesText(event)}, ${ms} ms: ${text}`;
    }
  }
}

/** The same as the fields of a JSON object. */
export function connectionFields(event: ConnectionEvent): Record<string, unknown> {
  const { kind, protocol, worker, id, client, local, upstream, ms, end } = event;
  const source = event.source === "" ? undefined : event.source;
  const { service, connectMs: connect_ms, retries } = event;
  const ends = { event: kind, service, protocol, worker, id, client, original_destination: local };
  switch (kind) {
    case "accepted":
      return ends;
    case "reached":
      return { ...ends, upstream, source, connect_ms, retries, ms };
    case "open": {
      const { state, idleMs: idle_ms } = event;
      return { ...ends, state, upstream, source, ...amountFields(event), ms, idle_ms };
    }
    case "forwarded":
    case "refused":
      return {
        ...{ ...ends, upstream, source, connect_ms, retries, ...amountFields(event), ms },
        ...(end && endFields(end)),
      };
  }
}

/** The counters of a Worker, or of all (0), as one line for people. */
export function countersLine(worker: number, counters: Counters): string {
  const parts = Object.entries(counters).map(
    ([name, value]) => `${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)} ${value}`,
  );
  return `[=] ${worker === 0 ? "All workers" : `Worker ${worker}`}: ${parts.join(", ")}`;
}

/** The same as the fields of a JSON object: `worker` is missing where it is all of them. */
export function countersFields(worker: number, counters: Counters): Record<string, unknown> {
  const fields = Object.entries(counters).map(([name, value]) => [snakeCase(name), value]);
  const who = worker === 0 ? {} : { worker };
  return { event: "counters", ...who, ...Object.fromEntries(fields) };
}

/** A name of ours as JSON has it. */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** How a connection or session ended, as the fields of a JSON object. */
export function endFields({ reason, by, failure, detail }: End): Record<string, unknown> {
  return {
    ended_by: by === "unknown" ? undefined : by,
    reason,
    call: failure?.call || undefined,
    error: failure && errnoName(failure.errno),
    detail: detail || undefined,
  };
}

function viaText({ protocol, local, upstream, source }: ConnectionEvent): string {
  const via = upstream === undefined || upstream === local ? "" : ` by ${protocol}://${upstream}`;
  return via + sourceText({ source });
}

function sourceText({ source }: { readonly source: string }): string {
  return source === "" || source === "client" ? "" : ` as ${source}`;
}

function bytesText(event: ConnectionEvent): string {
  const { protocol, clientBytes: sent, upstreamBytes: received, packets } = event;
  if (packets !== undefined) {
    return `${packets.client} packets (${sent} bytes) out, ${packets.upstream} (${received}) in`;
  }
  if (protocol === "tcp") return `${sent} bytes out, ${received} in`;
  const { clientDatagrams, upstreamDatagrams } = event;
  return `${clientDatagrams} datagrams (${sent} bytes) out, ${upstreamDatagrams} (${received}) in`;
}

function amountFields(event: ConnectionEvent): Record<string, number | boolean> {
  const { protocol, clientBytes: client_bytes, upstreamBytes: upstream_bytes, packets } = event;
  if (packets !== undefined) {
    const { client: client_packets, upstream: upstream_packets } = packets;
    const bytes_with_headers = true;
    return { client_bytes, upstream_bytes, client_packets, upstream_packets, bytes_with_headers };
  }
  if (protocol === "tcp") return { client_bytes, upstream_bytes };
  const { clientDatagrams: client_datagrams, upstreamDatagrams: upstream_datagrams } = event;
  return { client_bytes, upstream_bytes, client_datagrams, upstream_datagrams };
}
