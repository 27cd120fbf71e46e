/** A status as people read it. Pure. */

import { type Column, tableText } from "../table.ts";
import { bytesText, countText, frequencyText, rateText, timeText } from "./amounts.ts";

/** The status that the admin API returns, as far as it is shown. */
export interface StatusView {
  readonly version: string;
  readonly pid: number;
  readonly start_time: string;
  readonly generation: number;
  readonly last_reload?: {
    readonly time: string;
    readonly is_successful: boolean;
    readonly problems: readonly string[];
  };
  readonly workers: number;
  readonly is_stopping: boolean;
  readonly routes: { readonly installed: boolean; readonly table?: string };
  readonly services: readonly ServiceView[];
  readonly pools: readonly PoolView[];
}

interface ServiceView {
  readonly name: string;
  readonly state: string;
  readonly pool: string;
  readonly listeners: readonly { readonly protocol: string; readonly address: string }[];
  readonly counters: Readonly<Record<string, number>>;
}

interface PoolView {
  readonly name: string;
  readonly upstreams: readonly UpstreamView[];
}

interface UpstreamView {
  readonly name: string;
  readonly state: string;
  readonly reason: string;
  readonly since: string;
  readonly weight: number;
  readonly is_backup: boolean;
  readonly addresses: readonly AddressView[];
}

interface AddressView {
  readonly address: string;
  readonly is_up: boolean;
  readonly counters: Readonly<Record<string, number>>;
  readonly check?: {
    readonly failed: number;
    readonly succeeded: number;
    readonly last_ms: number;
  };
}

/** The same status a while before. */
export interface Earlier {
  readonly before: StatusView;
  readonly seconds: number;
}

/** The part of a status that is of a service, a pool, or `POOL/UPSTREAM`; undefined: of nothing. */
export function only(status: StatusView, name: string): StatusView | undefined {
  const services = status.services.filter((service) => service.name === name);
  const used = new Set(services.map(({ pool }) => pool));
  const pools = status.pools.flatMap((pool) => {
    if (pool.name === name || used.has(pool.name)) return [pool];
    const upstreams = pool.upstreams.filter((each) => `${pool.name}/${each.name}` === name);
    return upstreams.length === 0 ? [] : [{ ...pool, upstreams }];
  });
  if (services.length === 0 && pools.length === 0) return undefined;
  return { ...status, services, pools };
}

/** Whether an upstream is down. What an administrator has drained is not. */
export function isDown({ pools }: StatusView): boolean {
  return pools.some(({ upstreams }) => upstreams.some(({ state }) => state === "down"));
}

/** The whole, in at most `room` columns if that is given. */
export function statusText(status: StatusView, earlier: Earlier, room?: number): string {
  const { services, pools, routes } = status;
  const parts = [headLine(status)];
  if (services.length > 0) parts.push(servicesTable(status, earlier, room));
  if (pools.length > 0) parts.push(poolsTable(pools, room));
  if (routes.installed) parts.push(`routes: in place (table ${routes.table ?? "?"})\n`);
  return parts.join("");
}

function headLine(status: StatusView): string {
  const { version, start_time, generation, last_reload, workers, is_stopping } = status;
  const age = (time: string) => timeText(Date.now() - Date.parse(time));
  const reload =
    last_reload === undefined
      ? ""
      : ` (${last_reload.is_successful ? "reloaded" : "a reload was refused"} ` +
        `${age(last_reload.time)} ago)`;
  const many = workers === 1 ? "1 worker" : `${workers} workers`;
  const end = is_stopping ? ", stopping" : "";
  const configuration = `generation ${generation}${reload}`;
  return `tproxy ${version}, up ${age(start_time)}, ${configuration}, ${many}${end}\n`;
}

const serviceColumns: readonly Column[] = [
  { title: "SERVICE" },
  { title: "STATE" },
  { title: "LISTEN" },
  { title: "OPEN", align: "right" },
  { title: "NEW/s", align: "right" },
  { title: "OUT/s", align: "right" },
  { title: "IN/s", align: "right" },
  { title: "REFUSED", align: "right", isOptional: true },
  { title: "TOTAL", align: "right", isOptional: true },
];

function servicesTable(
  { services }: StatusView,
  { before, seconds }: Earlier,
  room: number | undefined,
): string {
  const rows = services.map(({ name, state, listeners, counters }) => {
    const old = before.services.find((service) => service.name === name)?.counters ?? counters;
    const sum = (of: Readonly<Record<string, number>>, ...names: string[]) =>
      names.reduce((total, each) => total + (of[each] ?? 0), 0);
    const rate = (...names: string[]) =>
      Math.max(0, sum(counters, ...names) - sum(old, ...names)) / seconds;
    return [
      name,
      state,
      listenText(listeners),
      countText(sum(counters, "active", "active_sessions")),
      frequencyText(rate("accepted", "sessions")),
      rateText(rate("client_bytes")),
      rateText(rate("upstream_bytes")),
      countText(sum(counters, "refused_connections", "refused_sessions")),
      bytesText(sum(counters, "client_bytes", "upstream_bytes")),
    ];
  });
  return tableText(serviceColumns, rows, room);
}

/** `tcp,udp :50053`; of many, the first one and how many more there are. */
function listenText(listeners: ServiceView["listeners"]): string {
  const byAddress = new Map<string, string[]>();
  for (const { protocol, address } of listeners) {
    byAddress.set(address, [...(byAddress.get(address) ?? []), protocol]);
  }
  const [first, ...others] = [...byAddress];
  if (first === undefined) return "";
  const more = others.length === 0 ? "" : ` (${others.length} more)`;
  return `${first[1].join()} ${first[0]}${more}`;
}

const poolColumns: readonly Column[] = [
  { title: "POOL/UPSTREAM" },
  { title: "STATE" },
  { title: "CHECK", isOptional: true },
  { title: "OPEN", align: "right" },
  { title: "WEIGHT", align: "right", isOptional: true },
  { title: "FAILED", align: "right", isOptional: true },
  { title: "ADDRESS", isOptional: true },
];

function poolsTable(pools: readonly PoolView[], room: number | undefined): string {
  const all = pools.flatMap(({ name, upstreams }) =>
    upstreams.map((upstream) => ({ ...upstream, path: `${name}/${upstream.name}` })),
  );
  const cells = all.map((each) => {
    const sum = (...names: string[]) =>
      each.addresses.reduce(
        (total, { counters }) => names.reduce((sum, name) => sum + (counters[name] ?? 0), total),
        0,
      );
    return [
      each.path,
      stateText(each),
      checkText(each),
      countText(sum("open", "open_sessions")),
      `${each.weight}${each.is_backup ? " backup" : ""}`,
      countText(sum("refused", "timeout", "unreachable", "reset", "local")),
      each.addresses.map(({ address }) => address).join(", "),
    ];
  });
  // Columns that nothing is known of are left out.
  const shown = poolColumns.map((_, at) => at < 2 || cells.some((row) => row[at] !== ""));
  const kept = <T>(row: readonly T[]) => row.filter((_, at) => shown[at] === true);
  return tableText(kept(poolColumns), cells.map(kept), room);
}

/** How long the last check of the slowest address took; empty: none was checked. */
function checkText({ addresses }: UpstreamView): string {
  const times = addresses.flatMap(({ check }) => {
    const count = (check?.succeeded ?? 0) + (check?.failed ?? 0);
    return check === undefined || count === 0 ? [] : [check.last_ms];
  });
  return times.length === 0 ? "" : timeText(Math.max(...times));
}

function stateText({ state, reason, since }: UpstreamView): string {
  const time = timeText(Date.now() - Date.parse(since));
  return `${state} ${time}${reason === "" || reason === state ? "" : `: ${reason}`}`;
}
