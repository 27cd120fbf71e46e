/** A filter for open connections and sessions: reads it from text, and matches rows. Pure. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Address } from "../net/address.ts";
import { type Cidr, cidrContains, parseCidr } from "../net/cidr.ts";
import { parseDuration } from "../net/duration.ts";
import { parsePort } from "../net/port.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";

/** All that is given has to hold. Plain data: it is sent to Workers. */
export interface RowFilter {
  readonly service?: string;
  readonly pool?: string;
  readonly upstream?: WantedUpstream;
  readonly client?: Cidr;
  readonly original?: Destination;
  readonly state?: string;
  /** Open for at least so long, and silent for at least so long, in ms. */
  readonly older?: number;
  readonly idle?: number;
}

/** An upstream by its name or by its address, `192.0.2.10:8080`. */
export interface WantedUpstream {
  readonly name: string;
  /** Those that it has. The main thread adds those of a name. */
  readonly addresses: readonly Destination[];
}

/** Where a client wanted to go; what is absent may be anything. */
export interface Destination {
  readonly network?: Cidr;
  readonly port?: number;
}

/** A connection or session, as far as a filter looks at it. */
export interface FilteredRow {
  readonly client: SocketAddress;
  readonly original: SocketAddress;
  readonly upstream: SocketAddress | undefined;
  readonly phase: string;
  /** In ms of the clock of `now`. */
  readonly startedAt: number;
  readonly lastActive: number;
}

/** The service that it belongs to. */
export interface RowNames {
  readonly service: string;
  readonly pool: string;
}

/** The words that a connection's or session's state has in the log. */
const states = [
  ...["header", "queued", "connecting", "relaying", "half-closed"],
  ...["unanswered", "answered", "confirmed"],
];

type Reader<T> = (text: string) => Parsed<T>;

/** How each part is read. */
const readers: { readonly [Part in keyof Required<RowFilter>]: Reader<RowFilter[Part]> } = {
  service: name,
  pool: name,
  upstream: parseUpstream,
  client: parseCidr,
  original: parseDestination,
  state: (text) =>
    states.includes(text)
      ? ok(text)
      : refuse(`${quote(text)} is not a state: give one of ${states.join(", ")}`),
  older: parseDuration,
  idle: parseDuration,
};

export type FilterPart = keyof RowFilter;

/** The parts of a filter, by the names that options and queries have for them. */
export const filterParts = Object.keys(readers) as readonly FilterPart[];

/** Reads one part of a filter. */
export function parseFilterPart<Part extends FilterPart>(
  part: Part,
  text: string,
): Parsed<RowFilter[Part]> {
  return readers[part](text) as Parsed<RowFilter[Part]>;
}

/** Whether nothing is asked of a row: everything matches. */
export function isEmptyFilter(filter: RowFilter): boolean {
  return filterParts.every((part) => filter[part] === undefined);
}

/** Whether a row is asked for; `now` is on the clock of the row's times, in ms. */
export function matches(
  filter: RowFilter,
  row: FilteredRow,
  names: RowNames,
  now: number,
): boolean {
  const { service, pool, upstream, client, original, state, older, idle } = filter;
  return (
    (service === undefined || service === names.service) &&
    (pool === undefined || pool === names.pool) &&
    (state === undefined || state === row.phase) &&
    (older === undefined || now - row.startedAt >= older) &&
    (idle === undefined || now - row.lastActive >= idle) &&
    (client === undefined || contains(client, row.client)) &&
    (original === undefined || isAt(original, row.original)) &&
    (upstream === undefined || isUpstream(upstream, row.upstream))
  );
}

function contains(network: Cidr, { address }: SocketAddress): boolean {
  const family: Address["family"] = address.length === 4 ? 4 : 6;
  return cidrContains(network, { family, bytes: address });
}

function isAt({ network, port }: Destination, original: SocketAddress): boolean {
  if (port !== undefined && port !== original.port) return false;
  return network === undefined || contains(network, original);
}

function isUpstream({ addresses }: WantedUpstream, upstream: SocketAddress | undefined): boolean {
  return upstream !== undefined && addresses.some((address) => isAt(address, upstream));
}

const nameLengthMax = 255;

function name(text: string): Parsed<string> {
  if (text.length > 0 && text.length <= nameLengthMax) return ok(text);
  return refuse(`${quote(text)} is not a name: give 1 to ${nameLengthMax} characters`);
}

function parseUpstream(text: string): Parsed<WantedUpstream> {
  const valid = name(text);
  if (!valid.ok) return valid;
  const address = parseDestination(text);
  return ok({ name: text, addresses: address.ok ? [address.value] : [] });
}

/** `CIDR`, `CIDR:PORT` with brackets around IPv6, or `:PORT`. */
function parseDestination(text: string): Parsed<Destination> {
  const parts = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^:[\]]*)$/.exec(text);
  if (parts === null) {
    const network = parseCidr(text.replace(/^\[([^[\]]*)\]$/, "$1"));
    return network.ok ? ok({ network: network.value }) : network;
  }
  const [, bracketed, plain = "", portText = ""] = parts;
  const port = parsePort(portText);
  if (!port.ok) return refuse(`${quote(text)}: ${port.error}`);
  if (bracketed === undefined && plain === "") return ok({ port: port.value });
  const network = parseCidr(bracketed ?? plain);
  return network.ok ? ok({ network: network.value, port: port.value }) : network;
}
