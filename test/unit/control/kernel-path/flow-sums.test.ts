/** What the kernel path counts: of a service, of its upstreams, and what never becomes less. */

import { expect, test } from "bun:test";
import * as c from "../../../../ffi/netlink/conntrack-constants.ts";
import { CarriedCounts } from "../../../../src/control/kernel-path/carried-counts.ts";
import { endedRow, isOpen, openRow } from "../../../../src/control/kernel-path/flow-rows.ts";
import { FlowSums } from "../../../../src/control/kernel-path/flow-sums.ts";
import { shortenedTimeouts } from "../../../../src/control/kernel-path/idle-flows.ts";
import { Counter, type CounterName } from "../../../../src/workers/counters.ts";
import type { End } from "../../../../src/workers/end-reason.ts";
import { TALLY_VALUES } from "../../../../src/workers/tally.ts";
import {
  UPSTREAM_COUNTER_VALUES,
  UpstreamCounter,
} from "../../../../src/workers/upstream-board.ts";
import { owner, session, startedAt, stream } from "./flows.ts";

/** linux/netfilter/nf_conntrack_common.h. */
const IPS_OFFLOAD = 0x4000;
const established = stream(c.TCP_CONNTRACK_ESTABLISHED);
const remembered = stream(c.TCP_CONNTRACK_TIME_WAIT, { id: 78 });
const refused = stream(c.TCP_CONNTRACK_CLOSE, {
  id: 79,
  status: 0,
  received: { packets: 1, bytes: 40 },
});

function add(sums: FlowSums, entry: typeof established): void {
  const row = endedRow(entry, owner, startedAt + 60_000);
  sums.add(entry, row, row.end as End);
}

const named = (values: Float64Array, ...names: CounterName[]) =>
  names.map((name) => values[Counter[name]]);

test("what is open, what is remembered and what has ended is counted once each", () => {
  const sums = new FlowSums();
  add(sums, refused);
  add(sums, session({ id: 80, status: 0 }));
  const { counters, upstreams } = sums.figures([established, remembered, session()]);
  expect(named(counters, "accepted", "active", "sessions", "activeSessions")).toEqual([3, 1, 2, 1]);
  expect(named(counters, "failed", "upstreamFailures", "unansweredSessions")).toEqual([1, 1, 1]);
  expect(named(counters, "datagrams", "clientDatagrams")).toEqual([18, 10]);
  const values = upstreams.get("0a080002:8080") as Float64Array;
  const { connects, refused: failed, open, sessions, openSessions } = UpstreamCounter;
  expect([connects, failed, open, sessions, openSessions].map((at) => values[at])).toEqual([
    ...[3, 1, 1, 2, 1],
  ]);
});

test("a counter never becomes less, and a gauge does", () => {
  const sums = new FlowSums();
  sums.figures([established, remembered]);
  // One is forgotten, and its event has not been read yet.
  const { counters } = sums.figures([remembered]);
  expect(named(counters, "accepted", "active")).toEqual([2, 0]);
  expect(named(counters, "clientBytes")).toEqual([600]);
  sums.lose(3, "tcp");
  expect(named(sums.figures([]).counters, "accepted")).toEqual([3]);
});

/** A watch that has these in its table. */
function watchOf(slot: number, ...entries: (typeof established)[]) {
  const sums = new FlowSums();
  return { figures: () => sums.figures(entries), tally: sums.tally, slotOf: () => slot };
}

test("sums outlive a service that changes, and those of an old process are added", () => {
  const counts = new CarriedCounts();
  counts.retire("web", watchOf(7, established, remembered));
  counts.inherit("web", { counters: { accepted: 10, active: 2 }, tally: [] });
  const now = watchOf(7, established);
  expect(named(counts.of("web", now).counters, "accepted", "active")).toEqual([13, 3]);
  expect(counts.of("other", undefined).tally).toEqual(new Float64Array(TALLY_VALUES));
  const total = counts.all([now]).reduce((sum, each) => sum + (each[Counter.accepted] ?? 0), 0);
  expect(total).toBe(13);
  const upstream = counts.bySlot([now, watchOf(7, session())]).get(7) ?? new Float64Array();
  expect(upstream).toHaveLength(UPSTREAM_COUNTER_VALUES);
  const { connects, open, openSessions } = UpstreamCounter;
  expect([connects, open, openSessions].map((at) => upstream[at])).toEqual([3, 1, 1]);
});

test("an offloaded connection is one of TCP, and open, without a state and a time-out", () => {
  const { tcpState: _, ...bare } = established;
  const offloaded = { ...bare, status: established.status | IPS_OFFLOAD };
  expect(isOpen(offloaded)).toBe(true);
  expect(openRow(offloaded, owner, startedAt)).toMatchObject({ state: "relaying", idleMs: 0 });
  expect(shortenedTimeouts([offloaded], owner.timeouts, () => 432_000)).toEqual([]);
});

test("one that came back from the flowtable gets what is left of its service's time-out", () => {
  const { timeouts } = owner;
  const at = (state: number, timeoutS: number) => stream(state, { timeoutS });
  const left = (...entries: (typeof established)[]) =>
    shortenedTimeouts(entries, timeouts, (name) => (name === "established" ? 432_000 : 120)).map(
      ({ timeoutS }) => timeoutS,
    );
  expect(left(at(c.TCP_CONNTRACK_ESTABLISHED, 7200), session({ timeoutS: 9000 }))).toEqual([]);
  expect(left(at(c.TCP_CONNTRACK_ESTABLISHED, 431_970))).toEqual([7170]);
  expect(left(at(c.TCP_CONNTRACK_ESTABLISHED, 424_000))).toEqual([1]);
  expect(left(at(c.TCP_CONNTRACK_FIN_WAIT, 110), at(c.TCP_CONNTRACK_SYN_RECV, 60))).toEqual([50]);
});
