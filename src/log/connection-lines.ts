/** Forwarded connections and sessions, and counters, as lines for people and as JSON. Pure. */

import type { Counters } from "../workers/counters.ts";
import type { ConnectionEvent } from "../workers/protocol.ts";

/** What is told of a forwarded connection or session, as one line for people. */
export function connectionLine(event: ConnectionEvent): string {
  const { kind, protocol, client, local, upstream, ms, error } = event;
  const ends = `${protocol}://${client} to ${protocol}://${local}`;
  switch (kind) {
    case "accepted":
      return `[.] Accepted: ${ends}`;
    case "reached":
      return `[.] Reached ${protocol}://${upstream}${sourceText(event)}, ${ms} ms: ${ends}`;
    case "open":
      return (
        `[=] Worker ${event.worker}, ${event.id}, ${event.state}: ${ends}${viaText(event)}, ` +
        `${bytesText(event)}, ${ms} ms old, idle for ${event.idleMs} ms`
      );
    case "forwarded": {
      const end = error === "" ? `ended by ${event.endedBy}` : error;
      const sign = isUsual(event) ? " " : "-";
      return `[${sign}] ${ends}${viaText(event)}, ${bytesText(event)}, ${ms} ms: ${end}`;
    }
  }
}

/** The same as the fields of a JSON object. */
export function connectionFields(event: ConnectionEvent): Record<string, unknown> {
  const { kind, protocol, worker, id, client, local, upstream, source, ms } = event;
  const ends = { event: kind, protocol, worker, id, client, original_destination: local };
  switch (kind) {
    case "accepted":
      return ends;
    case "reached":
      return { ...ends, upstream, source, ms };
    case "open": {
      const { state, idleMs: idle_ms } = event;
      return { ...ends, state, upstream, source, ...amountFields(event), ms, idle_ms };
    }
    case "forwarded": {
      const { endedBy: ended_by, error } = event;
      const why = protocol === "udp" ? { reason: error } : { error };
      return { ...ends, upstream, source, ...amountFields(event), ms, ended_by, ...why };
    }
  }
}

/** What a Worker has counted, or all of them (0), as one line for people. */
export function countersLine(worker: number, counters: Counters): string {
  const parts = Object.entries(counters).map(
    ([name, value]) => `${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)} ${value}`,
  );
  return `[=] ${worker === 0 ? "All workers" : `Worker ${worker}`}: ${parts.join(", ")}`;
}

/** The same as the fields of a JSON object: `worker` is missing where it is all of them. */
export function countersFields(worker: number, counters: Counters): Record<string, unknown> {
  const fields = Object.entries(counters).map(([name, value]) => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ]);
  const who = worker === 0 ? {} : { worker };
  return { event: "counters", ...who, ...Object.fromEntries(fields) };
}

/** UDP knows no end, so being silent is the end of a session. */
function isUsual({ protocol, error }: ConnectionEvent): boolean {
  return error === "" || (protocol === "udp" && (error === "idle" || error === "stopped"));
}

function viaText({ protocol, local, upstream, source }: ConnectionEvent): string {
  const via = upstream === undefined || upstream === local ? "" : ` by ${protocol}://${upstream}`;
  return via + sourceText({ source });
}

function sourceText({ source }: { readonly source: string }): string {
  return source === "" || source === "client" ? "" : ` as ${source}`;
}

function bytesText(event: ConnectionEvent): string {
  const { protocol, sent, received, sentDatagrams, receivedDatagrams } = event;
  if (protocol === "tcp") return `${sent} bytes out, ${received} in`;
  return `${sentDatagrams} datagrams (${sent} bytes) out, ${receivedDatagrams} (${received}) in`;
}

function amountFields(event: ConnectionEvent): Record<string, number> {
  const { protocol, sent, received } = event;
  if (protocol === "tcp") return { sent, received };
  const { sentDatagrams: sent_datagrams, receivedDatagrams: received_datagrams } = event;
  return { sent, received, sent_datagrams, received_datagrams };
}
