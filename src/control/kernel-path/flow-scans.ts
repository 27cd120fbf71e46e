/**
 * Queries and kills of connections that the kernel carries: as those of the Workers' connections,
 * with the same filters, orders and rows. Connection tracking is asked each time.
 */

import { SyscallError } from "../../../ffi/errno.ts";
import type { ConntrackEntry } from "../../../ffi/netlink/conntrack.ts";
import { mergeRows } from "../../workers/merge-rows.ts";
import { Largest, type RowQuery } from "../../workers/query.ts";
import { matches, type RowNames } from "../../workers/row-filter.ts";
import { queryRowsMax, rateWindowMs } from "../../workers/scan-limits.ts";
import { type OpenRow, type Rows, ScanError, type Selection } from "../../workers/scan-requests.ts";
import type { FlowRates } from "./flow-rates.ts";
import { amountsOf, type FlowOwner, filteredRow, openRow } from "./flow-rows.ts";

/** A service whose connections are looked at. */
export interface ScannedService {
  readonly names: RowNames;
  readonly owner: FlowOwner;
  readonly rates: FlowRates;
  /** What is open. @throws SyscallError */
  openFlows(): readonly ConntrackEntry[];
  /** Ends connections by order of an administrator; returns how many. @throws SyscallError */
  kill(entries: readonly ConntrackEntry[]): number;
}

/** The rows of all services that a query asks for. @throws ScanError */
export async function queryFlows(
  services: readonly ScannedService[],
  query: RowQuery,
): Promise<Rows> {
  const asked = services.filter((each) => isAsked(each, query.filter));
  if (query.rates && asked.some(({ rates }) => !rates.isFresh(performance.now()))) {
    for (const each of asked) each.rates.measure(flowsOf(each), performance.now());
    await Bun.sleep(rateWindowMs);
  }
  const others = services.filter((each) => !asked.includes(each));
  const uncounted = others.map((each) => ({ total: flowsOf(each).length, matched: 0, rows: [] }));
  return mergeRows([...asked.map((each) => rowsOf(each, query)), ...uncounted], query);
}

/** Ends what a selection means; returns how many there were. @throws ScanError */
export function killFlows(services: readonly ScannedService[], selection: Selection): number {
  let ended = 0;
  for (const service of services) {
    const isMeant = meaning(service, selection);
    if (isMeant === undefined) continue;
    ended += guarded(() => service.kill(service.openFlows().filter(isMeant)));
  }
  return ended;
}

function rowsOf(service: ScannedService, { filter, sort, limit, rates }: RowQuery): Rows {
  const { names, owner } = service;
  const entries = flowsOf(service);
  const now = Date.now();
  if (rates) service.rates.measure(entries, performance.now());
  const largest = new Largest<ConntrackEntry>(Math.min(limit, queryRowsMax));
  let matched = 0;
  for (const entry of entries) {
    const row = filteredRow(entry, owner, now);
    if (!matches(filter, row, names, now)) continue;
    matched++;
    const amounts = amountsOf(entry);
    const rate = rates ? service.rates.of(entry) : undefined;
    const keys = {
      rate: rate === undefined ? 0 : rate.client + rate.upstream,
      bytes: amounts.client + amounts.upstream,
      age: -row.startedAt,
      idle: -row.lastActive,
    };
    largest.add(keys[sort], entry);
  }
  const rows = largest.items().map(({ item }): OpenRow => {
    const rate = rates ? service.rates.of(item) : undefined;
    return { ...openRow(item, owner, now), ...names, rate };
  });
  return { total: entries.length, matched, rows };
}

/** Whether a connection is one of the selection; undefined: none of the service is. */
function meaning(
  { names, owner }: ScannedService,
  selection: Selection,
): ((entry: ConntrackEntry) => boolean) | undefined {
  if (selection.kind === "filter") {
    const { filter } = selection;
    if (!isAsked({ names }, filter)) return undefined;
    const now = Date.now();
    return (entry) => matches(filter, filteredRow(entry, owner, now), names, now);
  }
  const own = selection.ids.filter((id) => id.worker === 0 && id.generation === owner.number);
  const ids = new Set(own.map(({ sequence }) => sequence));
  return ids.size === 0 ? undefined : ({ id }) => ids.has(id);
}

function isAsked(
  { names }: Pick<ScannedService, "names">,
  { service, pool }: RowQuery["filter"],
): boolean {
  return (service ?? names.service) === names.service && (pool ?? names.pool) === names.pool;
}

function flowsOf(service: ScannedService): readonly ConntrackEntry[] {
  return guarded(() => service.openFlows());
}

/** @throws ScanError for what the kernel refuses */
function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new ScanError(`connections of the kernel path cannot be looked at: ${error.message}`);
  }
}
