/** Run by `../netlink.test.ts` in a namespace of its own: connection tracking by ctnetlink. */

import { beforeAll, beforeEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { writeFileSync } from "node:fs";
import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { EINVAL, ENOENT } from "../../../ffi/errno.ts";
import {
  type ConntrackEvent,
  decodeConntrackEvent,
  decodeEntry,
  deleteEntry,
  dumpEntries,
  type EntryFilter,
  type EntryKey,
  fits,
  getEntry,
  updateEntry,
} from "../../../ffi/netlink/conntrack.ts";
import {
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
  TCP_CONNTRACK_ESTABLISHED,
} from "../../../ffi/netlink/conntrack-constants.ts";
import {
  decodeCounts,
  decodeFill,
  dumpCounts,
  getFill,
} from "../../../ffi/netlink/conntrack-stats.ts";
import {
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
} from "../../../ffi/netlink/constants.ts";
import { markFilter } from "../../../ffi/netlink/event-filter.ts";
import { decodeLink, getLink, setLink } from "../../../ffi/netlink/link.ts";
import { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import {
  IPS_ASSURED,
  IPS_CONFIRMED,
  IPS_SEEN_REPLY,
} from "../../../ffi/netlink/nftables/expr/ct.ts";
import { NetlinkError, NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { ip } from "../../helpers/addresses.ts";
import { testWith } from "../../helpers/tools.ts";

const socket = NetlinkSocket.open(NETLINK_NETFILTER);
const groups = [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY];
const reply = { source: ip("203.0.113.2"), sourcePort: 8080, destinationPort: 4000 };
const withTools = testWith(["conntrack", "nft"]);

const original = {
  source: ip("192.0.2.1"),
  destination: ip("198.51.100.7"),
  protocol: IPPROTO_TCP,
  sourcePort: 4000,
  destinationPort: 80,
};

const sh = async (command: string) => {
  const child = Bun.spawn(["sh", "-ec", command], { stdout: "ignore", stderr: "pipe" });
  const problems = await child.stderr.text();
  if ((await child.exited) !== 0) throw new Error(`${command}\n${problems}`);
};
/**
 * Makes a TCP entry whose connection goes to 203.0.113.2:8080 instead of 198.51.100.7:80. The tool
 * does not set a mark correctly beside a status.
 */
async function insert(port: number, mark: number, more = ""): Promise<EntryKey> {
  await sh(`conntrack -I -p tcp -s 192.0.2.1 -d 198.51.100.7 --sport ${port} --dport 80 \
      -r 203.0.113.2 -q 192.0.2.1 --reply-port-src 8080 --reply-port-dst ${port} \
      --state ESTABLISHED -t 100 ${more}`);
  const key = { original: { ...original, sourcePort: port }, zone: more.includes("-w 3") ? 3 : 0 };
  socket.request(updateEntry(key, { mark }));
  return key;
}

/** As `control/kernel-path` reads: what the kernel filtered, looked at once more. */
function list(filter: EntryFilter, filterWanted: "whole" | "mark" = "whole") {
  const entries = socket.dump(dumpEntries(filter, filterWanted), decodeEntry);
  return entries.filter((entry) => fits(entry, filter));
}

function errnoOf(send: () => unknown): number {
  try {
    send();
  } catch (error) {
    if (error instanceof NetlinkError) return error.errno;
    throw error;
  }
  return 0;
}

beforeAll(() => {
  using routes = NetlinkSocket.open(NETLINK_ROUTE);
  const { index } = routes.get(getLink({ name: "lo" }), decodeLink);
  routes.request(setLink(index, { up: true }));
});

beforeEach(() => {
  for (const { original, zone } of list({})) socket.request(deleteEntry({ original, zone }));
});

withTools("an entry of conntrack(8) is decoded, asked for and changed", async () => {
  const key = await insert(4000, 7, "--status ASSURED,SEEN_REPLY -w 3");
  const entry = socket.get(getEntry(key), decodeEntry);
  expect(entry).toMatchObject({
    family: NFPROTO_IPV4,
    original,
    reply: { ...reply, destination: ip("192.0.2.1"), protocol: IPPROTO_TCP },
    status: IPS_ASSURED | IPS_SEEN_REPLY | IPS_CONFIRMED,
    zone: 3,
    mark: 7,
    tcpState: TCP_CONNTRACK_ESTABLISHED,
  });
  expect(entry.timeoutS).toBeWithin(50, 101);
  expect(list({})).toMatchObject([{ original, zone: 3, id: entry.id }]);
  // Another zone is another entry.
  expect(errnoOf(() => socket.get(getEntry({ original }), decodeEntry))).toBe(ENOENT);
  socket.request(updateEntry(key, { timeoutS: 5000, mark: 0x900 }));
  const changed = socket.get(getEntry(key), decodeEntry);
  expect(changed.mark).toBe(0x900);
  expect(changed.timeoutS).toBeWithin(4900, 5001);
  // With the id of another entry nothing is deleted.
  const other = { ...key, id: (entry.id ^ 1) >>> 0 };
  expect(errnoOf(() => socket.request(deleteEntry(other)))).toBe(ENOENT);
  socket.request(deleteEntry({ ...key, id: entry.id }));
  expect(list({})).toEqual([]);
});

withTools("a filter finds the same in the kernel and after a dump of all", async () => {
  await insert(4000, 0x107);
  await insert(4001, 0x207, "--status ASSURED,SEEN_REPLY");
  await sh("conntrack -I -p udp -s 192.0.2.1 -d 203.0.113.2 --sport 9 --dport 8080 -t 100");
  await sh("conntrack -I -p udp -s fd00::1 -d fd00::2 --sport 4000 --dport 53 -t 100 -m 0x107");
  const server = { address: ip("203.0.113.2"), protocol: IPPROTO_TCP, port: 8080 };
  const filters: [EntryFilter, number][] = [
    [{}, 4],
    [{ family: NFPROTO_IPV6 }, 1],
    [{ mark: { value: 0x107, mask: 0xffff } }, 2],
    [{ mark: { value: 7, mask: 0xff } }, 3],
    [{ status: { value: IPS_ASSURED, mask: IPS_ASSURED } }, 1],
    [{ status: { value: 0, mask: IPS_ASSURED } }, 3],
    [{ family: NFPROTO_IPV4, server }, 2],
    [{ family: NFPROTO_IPV4, server: { address: server.address } }, 3],
    [{ family: NFPROTO_IPV4, server: { ...server, port: 81 } }, 0],
    [{ family: NFPROTO_IPV6, server: { address: ip("fd00::2"), protocol: IPPROTO_UDP } }, 1],
    [{ family: NFPROTO_IPV4, server, mark: { value: 0x207, mask: 0xffff } }, 1],
  ];
  for (const [filter, count] of filters) {
    expect(list(filter, "mark")).toHaveLength(count);
    // Before Linux 5.8 there is no filter but the mark.
    const errno = errnoOf(() => expect(list(filter)).toHaveLength(count));
    expect([0, EINVAL]).toContain(errno);
  }
});

withTools("many requests in one call: each one's errno", async () => {
  await sh(`
    i=1; while [ $i -le 130 ]; do
      conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport $i --dport 53 -t 100
      i=$((i+1))
    done`);
  const keys = list({});
  expect(keys).toHaveLength(130);
  const none = { original: { ...original, sourcePort: 1 } };
  const errnos = socket.requestEach(
    [...keys.slice(0, 60), none, ...keys.slice(60)].map(deleteEntry),
  );
  expect(errnos).toHaveLength(131);
  expect(errnos[60]).toBe(ENOENT);
  expect(errnos.filter((errno) => errno === 0)).toHaveLength(130);
  expect(list({})).toEqual([]);
  expect(socket.requestEach([])).toEqual([]);
});

withTools("events tell of new and destroyed entries, with counts and times", async () => {
  writeFileSync("/proc/sys/net/netfilter/nf_conntrack_acct", "1");
  writeFileSync("/proc/sys/net/netfilter/nf_conntrack_timestamp", "1");
  const monitor = NetlinkMonitor.open(NETLINK_NETFILTER, groups, { queueBytes: 1 << 20 });
  // Connections are tracked once a rule asks for it.
  await sh("nft 'table ip t { chain c { type filter hook input priority 0; ct state new; }; }'");
  const server = createSocket("udp4");
  const client = createSocket("udp4");
  await Promise.all([server, client].map((each) => bound(each)));
  const answered = new Promise<void>((resolve) => client.once("message", () => resolve()));
  server.on("message", (_, from) => server.send("answer", from.port, "127.0.0.1"));
  client.send("question!", server.address().port, "127.0.0.1");
  await answered;
  const port = client.address().port;
  const isOurs = ({ entry }: ConntrackEvent) => entry.original.sourcePort === port;
  const [entry] = list({}).filter(({ original }) => original.sourcePort === port);
  if (entry === undefined) throw new Error("no entry");
  socket.request(deleteEntry(entry));
  const events = eventsOf(monitor).filter(isOurs);
  monitor.close();
  server.close();
  client.close();
  expect(events.map(({ kind }) => kind)).toEqual(["new", "destroy"]);
  const last = events[1]?.entry;
  expect(last).toMatchObject({
    id: entry.id,
    sent: { packets: 1, bytes: 20 + 8 + 9 },
    received: { packets: 1, bytes: 20 + 8 + 6 },
  });
  expect((last?.status ?? 0) & IPS_SEEN_REPLY).toBe(IPS_SEEN_REPLY);
  const { startedAt = 0, stoppedAt = 0 } = last ?? {};
  expect(startedAt).toBeWithin(Date.now() - 60_000, Date.now() + 1);
  expect(stoppedAt).toBeGreaterThanOrEqual(startedAt);
});

/** A script that makes entries of UDP, each with a client's port from `port` on. */
const inserting = (port: number, count: number, options = "") => `
  i=${port}; while [ $i -lt ${port + count} ]; do
    conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport $i --dport 53 -t 100 ${options}
    i=$((i+1))
  done`;

withTools("a listener that falls behind knows how many events it has lost", async () => {
  const slow = NetlinkMonitor.open(NETLINK_NETFILTER, groups, { queueBytes: 1 });
  const quick = NetlinkMonitor.open(NETLINK_NETFILTER, groups, { queueBytes: 1 << 20 });
  await sh(inserting(1000, 60));
  expect(eventsOf(quick)).toHaveLength(60);
  const read = eventsOf(slow).length;
  expect(read).toBeLessThan(60);
  expect([slow.lost, quick.lost]).toEqual([60 - read, 0]);
  for (const monitor of [slow, quick]) monitor.close();
});

withTools("events of connections without the mark are not queued, and not lost", async () => {
  const instructions = markFilter({ value: 0x0100_0000, mask: 0xff00_0000 });
  const options = { queueBytes: 1, instructions };
  const monitor = NetlinkMonitor.open(NETLINK_NETFILTER, groups, options);
  await sh(inserting(2000, 30) + inserting(3000, 30, "--mark 0x02000000"));
  expect([eventsOf(monitor).length, monitor.lost]).toEqual([0, 0]);
  await sh(inserting(4000, 1, "--mark 0x01000007"));
  expect(eventsOf(monitor).map(({ entry }) => entry.mark)).toEqual([0x0100_0007]);
  await sh("conntrack -D --mark 0x01000000/0xff000000");
  expect(eventsOf(monitor).map(({ kind }) => kind)).toEqual(["destroy"]);
  expect(monitor.lost).toBe(0);
  monitor.close();
});

test("how full the table is, and what every CPU has counted", async () => {
  const max = await Bun.file("/proc/sys/net/netfilter/nf_conntrack_max").text();
  const fill = socket.get(getFill(), decodeFill);
  expect(fill).toEqual({ entries: list({}).length, max: Number(max) });
  const counts = socket.dump(dumpCounts(), decodeCounts);
  expect(counts.map(({ cpu }) => cpu)).toContain(0);
  for (const { dropped, earlyDropped } of counts) expect([dropped, earlyDropped]).toEqual([0, 0]);
});

function bound(each: ReturnType<typeof createSocket>): Promise<void> {
  return new Promise((resolve) => each.bind(0, "127.0.0.1", resolve));
}

function eventsOf(monitor: NetlinkMonitor): ConntrackEvent[] {
  return monitor.read().flatMap((message) => decodeConntrackEvent(message) ?? []);
}
