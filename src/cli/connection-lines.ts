/** Forwarded connections and counters, as lines for people and as fields of JSON. Pure. */

import type { ConnectionEvent } from "../engine/protocol.ts";
import type { Counters } from "../engine/shared.ts";

/** What is told of a forwarded connection, as one line for people. */
export function connectionLine(event: ConnectionEvent): string {
  const { kind, client, local, upstream, ms, error, endedBy } = event;
  const ends = `tcp://${client} to tcp://${local}`;
  switch (kind) {
    case "accepted":
      return `[.] Accepted: ${ends}\n`;
    case "reached":
      return `[.] Reached tcp://${upstream}${sourceText(event)}, ${ms} ms: ${ends}\n`;
    case "open":
      return (
        `[=] Worker ${event.worker}, ${event.id}, ${event.state}: ${ends}${viaText(event)}, ` +
        `${bytesText(event)}, ${ms} ms old, idle for ${event.idleMs} ms\n`
      );
    case "forwarded": {
      const end = error === "" ? `ended by ${endedBy}` : error;
      const sign = error === "" ? " " : "-";
      return `[${sign}] ${ends}${viaText(event)}, ${bytesText(event)}, ${ms} ms: ${end}\n`;
    }
  }
}

/** The same as the fields of a JSON object. */
export function connectionFields(event: ConnectionEvent): Record<string, unknown> {
  const { kind, worker, id, client, local, upstream, source, sent, received, ms } = event;
  const ends = { event: kind, worker, id, client, original_destination: local };
  switch (kind) {
    case "accepted":
      return ends;
    case "reached":
      return { ...ends, upstream, source, ms };
    case "open": {
      const { state, idleMs: idle_ms } = event;
      return { ...ends, state, upstream, source, sent, received, ms, idle_ms };
    }
    case "forwarded": {
      const { endedBy: ended_by, error } = event;
      return { ...ends, upstream, source, sent, received, ms, ended_by, error };
    }
  }
}

/** What a Worker has counted, or all of them (0), as one line for people. */
export function countersLine(worker: number, counters: Counters): string {
  const parts = Object.entries(counters).map(
    ([name, value]) => `${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)} ${value}`,
  );
  return `[=] ${worker === 0 ? "All workers" : `Worker ${worker}`}: ${parts.join(", ")}\n`;
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

function viaText({ local, upstream, ...rest }: ConnectionEvent): string {
  const via = upstream === undefined || upstream === local ? "" : ` by tcp://${upstream}`;
  return via + sourceText(rest);
}

function sourceText({ source }: { readonly source: string }): string {
  return source === "" || source === "client" ? "" : ` as ${source}`;
}

function bytesText({ sent, received }: ConnectionEvent): string {
  return `${sent} bytes out, ${received} in`;
}
