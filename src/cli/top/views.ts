/** The tables of `top`: what a view has of a status, sorted and filtered. Pure. */

import type { Column } from "../table.ts";
import { bytesText, countText, frequencyText, rateText, timeText } from "../words/amounts.ts";
import type { Address, Connection, LogLine, Pool, Service, Status, Upstream } from "./data.ts";
import { type RateMeter, sumOf } from "./rates.ts";

export const views = ["services", "upstreams", "connections", "log"] as const;
export type View = (typeof views)[number];

/** The thing that a row is about. */
export type Subject =
  | { readonly kind: "service"; readonly service: Service }
  | { readonly kind: "upstream"; readonly pool: string; readonly upstream: Upstream }
  | { readonly kind: "connection"; readonly connection: Connection }
  | { readonly kind: "line" };

export interface Row {
  /** Tells it from the others of its view. */
  readonly key: string;
  readonly cells: readonly string[];
  readonly isBad: boolean;
  /** All that is known of it: names and values. */
  readonly details: readonly (readonly [string, string])[];
  readonly subject: Subject;
}

/** By what each view may be sorted; the first is the usual one. */
export const sortKeys = {
  services: ["name", "new", "out", "in", "open"],
  upstreams: ["pool", "state", "new", "open"],
  // The server sorts them: it sends the first ones only.
  connections: ["rate", "bytes", "age", "idle"],
  log: ["time"],
} as const satisfies Record<View, readonly string[]>;

const left = (title: string, isOptional = false): Column => ({ title, isOptional });
const right = (title: string, isOptional = false): Column => ({
  ...{ title, isOptional },
  align: "right",
});

export const columnsOf: Readonly<Record<View, readonly Column[]>> = {
  services: [
    ...[left("SERVICE"), left("STATE"), right("OPEN"), right("NEW/s"), right("OUT/s")],
    ...[right("IN/s"), right("FAILED", true), left("LISTEN", true), left("POOL", true)],
  ],
  upstreams: [
    ...[left("UPSTREAM"), left("STATE"), right("OPEN"), right("NEW/s"), right("OUT/s", true)],
    ...[right("IN/s", true), left("POOL", true), right("WEIGHT", true), right("SINCE", true)],
    left("REASON", true),
  ],
  connections: [
    ...[left("CLIENT"), left("ORIGINAL"), left("UPSTREAM", true), left("STATE", true)],
    ...[right("AGE", true), right("IDLE", true), right("OUT/s", true), right("IN/s", true)],
    right("TOTAL", true),
  ],
  log: [left("TIME"), left("LEVEL"), left("TEXT")],
};

/** The rows of a view in the order of `sort`. */
export function rowsOf(
  view: View,
  status: Status | undefined,
  log: readonly LogLine[],
  meter: RateMeter,
  sort: string,
): Row[] {
  if (view === "log") return log.map(logRow);
  if (status === undefined) return [];
  switch (view) {
    case "services":
      return sorted(status.services, serviceOrder(meter, sort)).map((each) =>
        serviceRow(each, meter),
      );
    case "upstreams": {
      const all = status.pools.flatMap((pool) => pool.upstreams.map((each) => ({ pool, each })));
      return sorted(all, upstreamOrder(meter, sort)).map(({ pool, each }) =>
        upstreamRow(pool, each, meter, Date.parse(status.time)),
      );
    }
    case "connections":
      return status.connections.map(connectionRow);
  }
}

/** The rows that have each of some words, whatever their case, in one of their cells. */
export function withWords(rows: readonly Row[], words: readonly string[]): readonly Row[] {
  if (words.length === 0) return rows;
  const wanted = words.map((word) => word.toLowerCase());
  return rows.filter(({ cells }) => {
    const text = cells.join(" ").toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
}

/** The largest first; undefined: in the order that they have. */
type Order<T> = ((item: T) => number) | undefined;

function sorted<T>(items: readonly T[], order: Order<T>): readonly T[] {
  return order === undefined ? items : items.toSorted((a, b) => order(b) - order(a));
}

function serviceOrder(meter: RateMeter, sort: string): Order<Service> {
  if (sort === "new") return ({ name }) => meter.service(name).begun;
  if (sort === "out") return ({ name }) => meter.service(name).out;
  if (sort === "in") return ({ name }) => meter.service(name).back;
  return sort === "open" ? openOf : undefined;
}

const openOf = ({ counters }: Service) => (counters.active ?? 0) + (counters.active_sessions ?? 0);

function upstreamOrder(
  meter: RateMeter,
  sort: string,
): Order<{ readonly pool: Pool; readonly each: Upstream }> {
  if (sort === "state") return ({ each }) => (each.state === "up" ? 0 : 1);
  if (sort === "new") return ({ pool, each }) => meter.upstream(pool.name, each.name).begun;
  return sort === "open" ? ({ each }) => openAt(each) : undefined;
}

const openAt = (upstream: Upstream) => sumOf(upstream, "open") + sumOf(upstream, "open_sessions");

function serviceRow(service: Service, meter: RateMeter): Row {
  const { name, state, pool, listeners, counters } = service;
  const { begun, out, back } = meter.service(name);
  const listens = listeners.map(({ protocol, address }) => `${protocol}://${address}`);
  const failed = countText(counters.failed ?? 0);
  const cells = [
    ...[name, state, countText(openOf(service)), frequencyText(begun), rateText(out)],
    ...[rateText(back), failed, listens.join(" "), pool],
  ];
  return {
    ...{ key: name, cells, isBad: state !== "up", subject: { kind: "service", service } },
    details: [
      ...([
        ["service", name],
        ["state", state],
        ["pool", pool],
      ] as const),
      ...listens.map((each) => ["listens at", each] as const),
      ...Object.entries(counters).map(([key, value]) => [words(key), String(value)] as const),
    ],
  };
}

function upstreamRow(pool: Pool, upstream: Upstream, meter: RateMeter, now: number): Row {
  const { name, state, reason, since, weight, is_backup, admin } = upstream;
  const { begun, out, back } = meter.upstream(pool.name, name);
  const isFor = since === undefined ? "" : timeText(Math.max(0, now - Date.parse(since)));
  const cells = [
    ...[name, state, countText(openAt(upstream)), frequencyText(begun), rateText(out)],
    ...[rateText(back), pool.name, weight === undefined ? "" : String(weight), isFor, reason],
  ];
  const details: [string, string][] = [
    ...(
      [
        ["upstream", name],
        ["pool", pool.name],
        ["state", state],
      ] as const
    ).map(([key, value]): [string, string] => [key, value]),
    ["reason", reason],
    ["since", since ?? ""],
    ["asked for", admin ?? ""],
    ["weight", weight === undefined ? "" : String(weight)],
    ["backup", is_backup === true ? "yes" : ""],
  ];
  return {
    ...{ key: `${pool.name} ${name}`, cells, isBad: state !== "up" },
    details: [
      ...details.filter(([, value]) => value !== ""),
      ...upstream.addresses.flatMap(addressDetails),
    ],
    subject: { kind: "upstream", pool: pool.name, upstream },
  };
}

function addressDetails(address: string | Address): (readonly [string, string])[] {
  if (typeof address === "string") return [["address", address]];
  const counters = Object.entries(address.counters ?? {});
  const why = address.reason ? `: ${address.reason}` : "";
  return [
    ["address", `${address.address}${why}`],
    ...counters.map(([key, value]) => [`  ${words(key)}`, String(value)] as const),
  ];
}

function connectionRow(connection: Connection): Row {
  const { id, protocol, client, original_destination, upstream = "", state } = connection;
  const { client_rate = 0, upstream_rate = 0, ms, idle_ms } = connection;
  const total = connection.client_bytes + connection.upstream_bytes;
  const cells = [
    ...[`${protocol} ${client}`, original_destination, upstream, state, timeText(ms)],
    ...[timeText(idle_ms), rateText(client_rate), rateText(upstream_rate), bytesText(total)],
  ];
  return {
    ...{ key: id, cells, isBad: false, subject: { kind: "connection", connection } },
    details: Object.entries(connection).map(([key, value]) => [words(key), String(value)] as const),
  };
}

function logRow({ time, level, text }: LogLine, at: number): Row {
  return {
    ...{ key: `${time} ${at}`, cells: [time.slice(11, 23), level, text] },
    isBad: level === "error" || level === "warning",
    details: [
      ...([
        ["time", time],
        ["level", level],
        ["text", text],
      ] as const),
    ],
    subject: { kind: "line" },
  };
}

const words = (key: string) => key.replaceAll("_", " ");
