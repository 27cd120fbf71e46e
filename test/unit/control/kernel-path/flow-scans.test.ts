/** Queries and kills of what the kernel carries, merged with those of the Workers. */

import { expect, test } from "bun:test";
import { ENOBUFS, SyscallError } from "../../../../ffi/errno.ts";
import type { ConntrackEntry } from "../../../../ffi/netlink/conntrack.ts";
import * as c from "../../../../ffi/netlink/conntrack-constants.ts";
import { FlowRates } from "../../../../src/control/kernel-path/flow-rates.ts";
import {
  killFlows,
  queryFlows,
  type ScannedService,
} from "../../../../src/control/kernel-path/flow-scans.ts";
import { mergeRows } from "../../../../src/workers/merge-rows.ts";
import type { RowQuery } from "../../../../src/workers/query.ts";
import { parseFilterPart } from "../../../../src/workers/row-filter.ts";
import { ip } from "../../../helpers/addresses.ts";
import { owner, session, stream } from "./flows.ts";

const open = c.TCP_CONNTRACK_ESTABLISHED;
const of = (packets: number, bytes: number) => ({ packets, bytes });

/** A service with three connections, the oldest first; of a smaller number all are older. */
function serviceOf(name: string, number: number, pool = "web") {
  const began = Date.now() - 100_000 + 1_000 * number;
  const entries: ConntrackEntry[] = [
    stream(open, { id: 11, startedAt: began, timeoutS: 7100, sent: of(2, 50) }),
    stream(open, { id: 12, startedAt: began + 50_000, timeoutS: 7190, sent: of(9, 90_000) }),
    session({ id: 13, startedAt: began + 90_000, timeoutS: 119 }),
  ];
  const killed: number[] = [];
  const service: ScannedService = {
    names: { service: name, pool },
    owner: { ...owner, number },
    rates: new FlowRates(),
    openFlows: () => entries,
    kill: (all) => killed.push(...all.map(({ id }) => id)),
  };
  return { service, killed, entries };
}

const filterOf = (
  part: "client" | "original" | "upstream" | "state" | "older" | "idle" | "service",
) => {
  return (text: string) => {
    const parsed = parseFilterPart(part, text);
    if (!parsed.ok) throw new Error(parsed.error);
    return { [part]: parsed.value };
  };
};
const query: RowQuery = { filter: {}, sort: "age", limit: 50, rates: false };
const idsOf = async (all: readonly ScannedService[], changes: Partial<RowQuery>) => {
  const { total, matched, rows } = await queryFlows(all, { ...query, ...changes });
  return [total, matched, ...rows.map(({ id }) => id)];
};

test("rows have the order and the limit of the query", async () => {
  const all = [serviceOf("a", 1).service, serviceOf("b", 2, "other").service];
  expect(await idsOf(all, { limit: 2 })).toEqual([6, 6, "0.11.1", "0.11.2"]);
  expect(await idsOf(all, { sort: "bytes", limit: 1 })).toEqual([6, 6, "0.12.1"]);
  expect(await idsOf(all.slice(0, 1), { sort: "idle" })).toEqual([
    ...[3, 3, "0.11.1", "0.12.1", "0.13.1"],
  ]);
  expect(await idsOf(all, { limit: 0 })).toEqual([6, 6]);
  const [row] = (await queryFlows(all, { ...query, filter: { pool: "other" }, limit: 1 })).rows;
  expect(row).toMatchObject({ service: "b", pool: "other", protocol: "tcp", state: "relaying" });
});

test.each([
  ["client", "10.9.0.0/16", 3],
  ["client", "10.8.0.0/16", 0],
  ["original", "192.0.2.80:80", 3],
  ["original", ":81", 0],
  ["upstream", "10.8.0.2:8080", 3],
  ["state", "answered", 1],
  ["older", "30s", 2],
  ["idle", "50s", 1],
  ["service", "a", 3],
  ["service", "b", 0],
] as const)("a filter by %s: %s", async (part, text, count) => {
  const { service, killed } = serviceOf("a", 1);
  const filter = filterOf(part)(text);
  const { total, matched, rows } = await queryFlows([service], { ...query, filter });
  expect([total, matched, rows.length]).toEqual([3, count, count]);
  expect(killFlows([service], { kind: "filter", filter })).toBe(count);
  expect(killed).toHaveLength(count);
});

test("ids are those of the kernel, with the number of the service", () => {
  const [a, b] = [serviceOf("a", 1), serviceOf("b", 2)];
  const id = (sequence: number, generation: number, worker = 0) => ({
    worker,
    sequence,
    generation,
  });
  const ids = [id(11, 2), id(12, 1, 1), id(13, 3), id(99, 1)];
  expect(killFlows([a.service, b.service], { kind: "ids", ids })).toBe(1);
  expect([a.killed, b.killed]).toEqual([[], [11]]);
});

test("rates are those between two looks, and forgotten without one", async () => {
  const { service, entries } = serviceOf("a", 1);
  const asked = queryFlows([service], { ...query, sort: "rate", rates: true });
  const first = entries[0] as ConntrackEntry;
  entries[0] = { ...first, sent: of(4, 1_000_050) };
  const { rows } = await asked;
  expect(rows[0]).toMatchObject({ id: "0.11.1", rate: { upstream: 0 } });
  expect(rows[0]?.rate?.client).toBeWithin(1, 2_000_001);
  expect(rows[1]?.rate).toEqual({ client: 0, upstream: 0 });
  expect(service.rates.isFresh(performance.now() + 6_000)).toBe(false);
});

test("what the kernel refuses is an answer, and ends nothing", async () => {
  const openFlows = () => {
    throw new SyscallError("recv", ENOBUFS);
  };
  const service = { ...serviceOf("a", 1).service, openFlows };
  await expect(queryFlows([service], query)).rejects.toThrow("cannot be looked at");
  expect(() => killFlows([service], { kind: "filter", filter: {} })).toThrow("ENOBUFS");
});

test("rows of several parts are in one order", async () => {
  const source = { ...stream(open).original, source: ip("10.9.0.3") };
  const young = serviceOf("a", 1);
  young.entries.push(stream(open, { id: 14, original: source, startedAt: Date.now() - 70_000 }));
  const parts = await Promise.all([
    queryFlows([young.service], query),
    queryFlows([serviceOf("b", 2).service], query),
  ]);
  const { total, matched, rows } = mergeRows(parts, { sort: "age", limit: 3 });
  expect([total, matched, ...rows.map(({ id }) => id)]).toEqual([
    ...[7, 7, "0.11.1", "0.11.2", "0.14.1"],
  ]);
});
