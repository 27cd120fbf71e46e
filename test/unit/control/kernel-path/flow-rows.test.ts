/** Connections of the kernel path as rows: states, ages, amounts, and why they ended. */

import { describe, expect, test } from "bun:test";
import * as c from "../../../../ffi/netlink/conntrack-constants.ts";
import { IPS_DST_NAT, IPS_SEEN_REPLY } from "../../../../ffi/netlink/nftables/expr/ct.ts";
import { endedRow, isOpen, openRow } from "../../../../src/control/kernel-path/flow-rows.ts";
import { flowsToEnd } from "../../../../src/control/kernel-path/lost-upstream.ts";
import { connectionFields, connectionLine } from "../../../../src/log/connection-lines.ts";
import { ended } from "../../../../src/workers/end-reason.ts";
import { ip } from "../../../helpers/addresses.ts";
import { owner, session, startedAt, stream } from "./flows.ts";

const unanswered = IPS_DST_NAT;
const nothing = { packets: 0, bytes: 0 };

describe("open connections", () => {
  test("an established one has its ends, its age and its silence", () => {
    const entry = stream(c.TCP_CONNTRACK_ESTABLISHED, { timeoutS: 7195 });
    expect(openRow(entry, owner, startedAt + 60_000)).toEqual({
      ...{ kind: "open", worker: 0, protocol: "tcp", id: "0.77.1", time: startedAt + 60_000 },
      ...{ state: "relaying", client: "10.9.0.2:4000", local: "192.0.2.80:80" },
      ...{ upstream: "10.8.0.2:8080", source: "client", clientBytes: 300, upstreamBytes: 4000 },
      ...{ clientDatagrams: 0, upstreamDatagrams: 0, ms: 60_000, idleMs: 5000, end: undefined },
      packets: { client: 5, upstream: 4 },
    });
  });

  test("a session has datagrams, and bytes without their headers", () => {
    const entry = session({ timeoutS: 100 });
    expect(openRow(entry, owner, startedAt + 60_000)).toMatchObject({
      ...{ protocol: "udp", state: "answered", clientDatagrams: 5, upstreamDatagrams: 4 },
      ...{ clientBytes: 300 - 5 * 28, upstreamBytes: 4000 - 4 * 28, idleMs: 20_000 },
    });
    // A connection is silent for no longer than it is there: the kernel counts whole seconds.
    expect(openRow(entry, owner, startedAt + 300)).toMatchObject({ ms: 300, idleMs: 300 });
    expect(openRow(session({ status: 0 }), owner, startedAt).state).toBe("unanswered");
    const original = { ...session().original, source: ip("fd00::1"), destination: ip("fd00::2") };
    expect(openRow(session({ original }), owner, startedAt)).toMatchObject({
      ...{ client: "[fd00::1]:4000", clientBytes: 300 - 5 * 48 },
    });
  });

  test("without accounting nothing is made up", () => {
    const { sent: _, received: __, startedAt: ___, ...bare } = stream(c.TCP_CONNTRACK_ESTABLISHED);
    expect(openRow(bare, owner, 5)).toMatchObject({
      ...{ clientBytes: 0, upstreamBytes: 0, ms: 0, idleMs: 0 },
    });
  });

  test("a closed connection that is only remembered is none", () => {
    const open = [1, 2, 3, 4, 5].map((state) => isOpen(stream(state)));
    const closed = [6, 7, 8].map((state) => isOpen(stream(state)));
    expect([...open, isOpen(session())]).toEqual(Array(6).fill(true));
    expect(closed).toEqual([false, false, false]);
  });
});

describe("ends", () => {
  const endOf = (entry: Parameters<typeof endedRow>[0]) => {
    const { end, ms } = endedRow({ ...entry, stoppedAt: startedAt + 20_000 }, owner, 0);
    return [end?.reason, end?.by, ms];
  };

  test("each by the last state, and the age up to the last packet", () => {
    expect(endOf(stream(c.TCP_CONNTRACK_TIME_WAIT))).toEqual(["done", "unknown", 10_000]);
    expect(endOf(stream(c.TCP_CONNTRACK_LAST_ACK))).toEqual(["done", "unknown", 10_000]);
    expect(endOf(stream(c.TCP_CONNTRACK_CLOSE))).toEqual(["reset", "unknown", 19_000]);
    expect(endOf(stream(c.TCP_CONNTRACK_ESTABLISHED))).toEqual(["idle-timeout", "proxy", 20_000]);
    expect(endOf(stream(c.TCP_CONNTRACK_SYN_RECV))).toEqual(["connect-timeout", "proxy", 20_000]);
    expect(endOf(session({ status: 0 }))).toEqual(["idle-timeout", "proxy", 20_000]);
  });

  test("refused and unanswered are told apart by the answer that was counted", () => {
    // As the kernel tells of both: packets=1 bytes=40 [UNREPLIED], and packets=0.
    const refused = stream(c.TCP_CONNTRACK_CLOSE, {
      status: unanswered,
      received: { packets: 1, bytes: 40 },
    });
    expect(endOf(refused)).toEqual(["connect-failed", "upstream", 20_000]);
    const silent = stream(c.TCP_CONNTRACK_SYN_SENT, { status: unanswered, received: nothing });
    expect(endOf(silent)).toEqual(["connect-timeout", "proxy", 20_000]);
  });

  test("one that was deleted ended for the reason of that", () => {
    const entry = stream(c.TCP_CONNTRACK_ESTABLISHED, { stoppedAt: startedAt + 500 });
    const row = endedRow(entry, owner, 0, ended("stopped"));
    expect([row.end?.reason, row.ms]).toEqual(["stopped", 500]);
  });

  test("lines and fields are those of the relay", () => {
    const entry = stream(c.TCP_CONNTRACK_TIME_WAIT, { stoppedAt: startedAt + 12_000 });
    const row = endedRow(entry, owner, 0);
    expect(connectionLine(row)).toBe(
      "[ ] tcp://10.9.0.2:4000 to tcp://192.0.2.80:80 by tcp://10.8.0.2:8080, 5 packets (300 " +
        "bytes) out, 4 (4000) in, 2000 ms: ended",
    );
    expect(connectionFields(row)).toMatchObject({
      ...{ event: "forwarded", client_bytes: 300, upstream_bytes: 4000, reason: "done" },
      ...{ bytes_with_headers: true, client_packets: 5, upstream_packets: 4, ms: 2000 },
    });
    const reset = endedRow(stream(c.TCP_CONNTRACK_CLOSE), owner, startedAt);
    expect(connectionLine(reset)).toEndWith(": reset");
  });
});

test("of a dead upstream all goes that a next packet could carry elsewhere", () => {
  const established = stream(c.TCP_CONNTRACK_ESTABLISHED);
  const begun = stream(c.TCP_CONNTRACK_SYN_SENT, { status: unanswered });
  const entries = [established, begun, session(), session({ status: unanswered })];
  const ended = [stream(c.TCP_CONNTRACK_TIME_WAIT), stream(c.TCP_CONNTRACK_CLOSE)];
  expect(flowsToEnd([...entries, ...ended], "keep")).toEqual(entries.slice(1));
  expect(flowsToEnd([...entries, ...ended], "close")).toEqual(entries);
  expect(established.status & IPS_SEEN_REPLY).not.toBe(0);
});
