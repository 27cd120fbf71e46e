/** Where a service accepts, as a file has it: an endpoint, or one with a range of ports. */

import type { Port } from "../../ffi/types.ts";
import type { Endpoint } from "../net/endpoint.ts";
import { formatEndpoint } from "../net/endpoint.ts";
import { type PortRange, parsePortRange } from "../net/port.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";
import { parseSchemedEndpoint, type Scheme } from "../net/target.ts";

/** Sockets of one protocol at one address, one for each port. */
export interface Listen {
  readonly protocol: Scheme;
  readonly address: Endpoint["address"];
  /** Of port 0 alone the kernel chooses. */
  readonly ports: PortRange;
}

/** What `parseListen` reads, where a protocol may be left open. */
export interface OpenListen extends Omit<Listen, "protocol"> {
  readonly protocol: Scheme | undefined;
}

/** Parses `:50080`, `udp://[::]:53`, `192.0.2.1:20000-20100`; TCP unless `udp://` is in front. */
export function parseListen(text: string): Parsed<Listen> {
  const parsed = parseOpenListen(text);
  return parsed.ok ? ok({ ...parsed.value, protocol: parsed.value.protocol ?? "tcp" }) : parsed;
}

/** The same without a protocol where none is in front. */
export function parseOpenListen(text: string): Parsed<OpenListen> {
  const parts = /^(.*):([0-9]+-[0-9]+)$/.exec(text);
  const range = parts === null ? undefined : parsePortRange(parts[2] as string);
  if (range !== undefined && !range.ok) return refuse(`${quote(text)}: ${range.error}`);
  const single = range === undefined ? text : `${parts?.[1]}:${range.value.from}`;
  const parsed = parseSchemedEndpoint(single, { portZero: true });
  // Errors in the rest quote the text as it was given.
  if (!parsed.ok) return refuse(parsed.error.replace(quote(single), () => quote(text)));
  const { scheme: protocol, endpoint } = parsed.value;
  const ports = range?.value ?? { from: endpoint.port, to: endpoint.port };
  return ok({ protocol, address: endpoint.address, ports });
}

/** The text that `parseListen` reads back. */
export function formatListen({ protocol, address, ports: { from, to } }: OpenListen): string {
  const endpoint = formatEndpoint({ address, port: from }).replace(/^\*/, "");
  return `${protocol === "udp" ? "udp://" : ""}${endpoint}${from === to ? "" : `-${to}`}`;
}

/** Each socket's endpoint. */
export function endpointsOf({ address, ports: { from, to } }: Listen): Endpoint[] {
  return Array.from({ length: to - from + 1 }, (_, i) => ({ address, port: (from + i) as Port }));
}
