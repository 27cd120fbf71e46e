/** Run by `../netlink.test.ts` in a namespace of its own: what is sent is what is there. */

import { afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { join } from "node:path";
import { IPPROTO_TCP, IPPROTO_UDP, SO_SNDBUF, SOL_SOCKET } from "../../../ffi/constants.ts";
import { EEXIST, EMSGSIZE, ENOENT, EPERM, SyscallError } from "../../../ffi/errno.ts";
import {
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NF_ACCEPT,
  NF_INET_LOCAL_OUT,
  NF_INET_PRE_ROUTING,
  NF_IP_PRI_MANGLE,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFPROTO_UNSPEC,
  NFT_JUMP,
  NFT_RETURN,
  NFT_SET_INTERVAL,
  NFT_TABLE_F_OWNER,
  NLM_F_ECHO,
} from "../../../ffi/netlink/constants.ts";
import { setLink } from "../../../ffi/netlink/link.ts";
import {
  type Chain,
  decodeChain,
  deleteChain,
  dumpChains,
  newChain,
} from "../../../ffi/netlink/nftables/chain.ts";
import { counter } from "../../../ffi/netlink/nftables/expr/counter.ts";
import { verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import {
  counterOf,
  decodeFirewallRule,
  deleteFirewallRule,
  dumpFirewallRules,
  newFirewallRule,
} from "../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  deleteElements,
  deleteSet,
  dumpElements,
  dumpSets,
  elementRanges,
  intervalElements,
  newElements,
  newSet,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../../ffi/netlink/nftables/set.ts";
import * as nft from "../../../ffi/netlink/nftables/statements.ts";
import {
  decodeTable,
  deleteTable,
  dumpTables,
  newTable,
} from "../../../ffi/netlink/nftables/table.ts";
import { NetlinkError, NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import * as sys from "../../../ffi/sys.ts";
import { ip, prefix } from "../../helpers/addresses.ts";
import { testWith } from "../../helpers/tools.ts";

const folder = join(import.meta.dir, "../../../ffi/netlink");
const table = { family: NFPROTO_INET, name: "tproxyd" };
const inTable = { family: NFPROTO_INET, table: "tproxyd" };
const inChain = { ...inTable, chain: "prerouting" };
const base = { type: "filter", hook: NF_INET_PRE_ROUTING, priority: NF_IP_PRI_MANGLE };
const chains: Chain[] = [
  { ...inTable, name: "prerouting", base: { ...base, policy: NF_ACCEPT } },
  {
    ...inTable,
    name: "output",
    base: { ...base, type: "route", hook: NF_INET_LOCAL_OUT, policy: NF_ACCEPT },
  },
  { ...inTable, name: "aside" },
];
const [tcp, udp] = [nft.protocol(IPPROTO_TCP), nft.protocol(IPPROTO_UDP)];
const [v4, v6] = [nft.family(NFPROTO_IPV4), nft.family(NFPROTO_IPV6)];
const set4 = { ...inTable, name: "nets", keyType: TYPE_IPADDR, keyLength: 4, id: 1 };

const expressions: Expression[][] = [
  [
    [...nft.inputInterface("veth0"), ...v4, ...nft.address("destination", prefix("8.8.8.8/32"))],
    [...tcp, ...nft.ports("destination", [80, 80]), counter(), ...nft.setMark(1, 1)],
  ].flat(),
  [
    [...nft.inputInterface("veth*"), ...v6, ...nft.address("source", prefix("2001:db8::/33"))],
    [...udp, ...nft.ports("source", [1000, 2000]), counter(), ...nft.setMark(1, 0xff)],
  ].flat(),
  [...v4, ...nft.addressInSet("destination", NFPROTO_IPV4, { name: "nets" }), verdict(NFT_RETURN)],
  [...tcp, ...nft.transparentSocket(false), ...nft.setMark(1, 0xffff_ffff), verdict(NF_ACCEPT)],
  [...nft.localDestination(), verdict(NFT_JUMP, "aside")],
  [...nft.replyDirection(), ...nft.markIs(1, 1), verdict(NFT_RETURN)],
  [...v4, ...tcp, ...nft.tproxyTo(50080, ip("127.0.0.1")), verdict(NF_ACCEPT)],
  [...v6, ...udp, ...nft.tproxyTo(50080, ip("::1")), verdict(NF_ACCEPT)],
  [...tcp, ...nft.tproxyTo(50080), ...nft.setMark(1, 1)],
];
const rules = expressions.map((each, i) => ({
  ...inChain,
  expressions: each,
  comment: `rule ${i}`,
}));
const skeleton = [newTable(table), ...chains.map(newChain)];

let socket: NetlinkSocket;
beforeAll(() => {
  using route = NetlinkSocket.open(NETLINK_ROUTE);
  route.request(setLink(1, { up: true }));
});
beforeEach(() => {
  socket = NetlinkSocket.open(NETLINK_NETFILTER);
});
afterEach(() => {
  socket.close();
  using another = NetlinkSocket.open(NETLINK_NETFILTER);
  for (const each of tablesOf(another)) another.batch([deleteTable(each)]);
});

const tablesOf = (from: NetlinkSocket) => from.dump(dumpTables(NFPROTO_UNSPEC), decodeTable);
const rulesNow = () => socket.dump(dumpFirewallRules(inChain), decodeFirewallRule);
const elementsNow = () => socket.dump(dumpElements(set4), decodeElements).flat();

/** What the kernel says to a batch that it refuses. */
function refusal(by: NetlinkSocket, batch: Message[]): NetlinkError {
  try {
    by.batch(batch);
  } catch (error) {
    if (error instanceof NetlinkError) return error;
    throw error;
  }
  throw new Error("the batch was not refused");
}

test("tables, chains, sets and rules are what was sent", () => {
  const set = { ...set4, flags: NFT_SET_INTERVAL };
  const ranges = [
    { first: ip("10.0.0.0"), last: ip("10.255.255.255") },
    { first: ip("224.0.0.0"), last: ip("255.255.255.255") },
  ];
  const elements = newElements(set, intervalElements(ranges));
  socket.batch([...skeleton, newSet(set), ...elements, ...rules.map(newFirewallRule)]);
  expect(tablesOf(socket)).toMatchObject([table]);
  expect(socket.dump(dumpChains(NFPROTO_INET), decodeChain)).toMatchObject(chains);
  const { id: _, ...named } = set;
  expect(socket.dump(dumpSets(NFPROTO_INET, "tproxyd"), decodeSet)).toMatchObject([named]);
  expect(elementRanges(elementsNow())).toEqual(ranges);
  const kept = rulesNow();
  expect(kept.map(({ handle: _, position: __, ...rule }) => rule)).toEqual(rules);
  expect(new Set(kept.map(({ handle }) => handle)).size).toBe(rules.length);
});

test("rules are put in place, replaced and deleted", () => {
  const comments = () => rulesNow().map(({ comment }) => comment);
  const rule = (comment: string) => ({ ...inChain, expressions: [counter()], comment });
  socket.batch([...skeleton, newFirewallRule(rule("a")), newFirewallRule(rule("c"))]);
  const position = rulesNow()[0]?.handle as bigint;
  const message = newFirewallRule({ ...rule("b"), position });
  const [echo] = socket.batch([{ ...message, flags: message.flags | NLM_F_ECHO }]);
  const made = decodeFirewallRule(echo?.body as Uint8Array);
  expect(comments()).toEqual(["a", "b", "c"]);
  expect(rulesNow()[1]?.handle).toBe(made.handle as bigint);
  socket.batch([deleteFirewallRule({ ...inChain, handle: position })]);
  expect(comments()).toEqual(["b", "c"]);
  socket.batch([deleteFirewallRule(inChain), newFirewallRule(rule("d"))]);
  expect(comments()).toEqual(["d"]);
  socket.batch([deleteFirewallRule(inChain), ...chains.map(deleteChain)]);
  expect(socket.dump(dumpChains(NFPROTO_UNSPEC), decodeChain)).toEqual([]);
});

test("a counter counts the packets that match", async () => {
  const to = (port: number) => [...udp, ...nft.ports("destination", [port, port]), counter()];
  const make = (port: number) => newFirewallRule({ ...inChain, expressions: to(port) });
  socket.batch([...skeleton, make(9001), make(9002)]);
  const counted = () => rulesNow().map((rule) => counterOf(rule)?.packets);
  expect(counted()).toEqual([0n, 0n]);
  const received = Promise.withResolvers<void>();
  let count = 0;
  const data = () => {
    if (++count === 3) received.resolve();
  };
  const server = await Bun.udpSocket({ hostname: "127.0.0.1", port: 9001, socket: { data } });
  for (let i = 0; i < 3; i++) server.send("hello", 9001, "127.0.0.1");
  await received.promise;
  server.close();
  expect(counted()).toEqual([3n, 0n]);
  const [rule] = rulesNow();
  expect(counterOf(rule as (typeof rules)[0])?.bytes).toBe(3n * (20n + 8n + 5n));
});

test("a table with an owner is its socket's alone, and goes with it", () => {
  using other = NetlinkSocket.open(NETLINK_NETFILTER);
  using owner = NetlinkSocket.open(NETLINK_NETFILTER);
  owner.batch([newTable({ ...table, flags: NFT_TABLE_F_OWNER })]);
  expect(tablesOf(other)).toMatchObject([{ ...table, owner: owner.portId }]);
  const refused = refusal(other, [deleteTable(table)]);
  expect(refused.errno as number).toBe(EPERM);
  expect(refused.call).toBe("NFT_MSG_DELTABLE");
  owner.batch([newChain(chains[0] as Chain)]);
  owner.close();
  expect(tablesOf(other)).toEqual([]);
});

test("a batch is carried out whole or not at all, and says what was refused", () => {
  const bad = { ...inChain, chain: "missing", expressions: [counter()] };
  const refused = refusal(socket, [...skeleton, newFirewallRule(bad), newTable(table)]);
  expect(refused.errno as number).toBe(ENOENT);
  expect(refused.index).toBe(skeleton.length);
  expect(refused.message).toMatch(
    /^NFT_MSG_NEWRULE \(attribute at byte \d+\): No such file or directory \(ENOENT\)$/,
  );
  expect(tablesOf(socket)).toEqual([]);
  socket.batch([newTable(table)]);
  expect(refusal(socket, [newTable(table)]).errno as number).toBe(EEXIST);
  socket.batch([newTable(table, true)]);
  expect(socket.batch([])).toEqual([]);
  expect(tablesOf(socket)).toHaveLength(1);
});

testWith(["setpriv"])("a batch without capabilities is refused as a whole", async () => {
  const script = `
    const { NetlinkSocket } = await import("${folder}/socket.ts");
    const { newTable } = await import("${folder}/nftables/table.ts");
    const socket = NetlinkSocket.open(${NETLINK_NETFILTER});
    const tables = [1, 2, 3].map((i) => newTable({ family: ${NFPROTO_INET}, name: "t" + i }));
    try {
      socket.batch(tables);
    } catch ({ call, code, index }) {
      process.stdout.write(JSON.stringify({ call, code, index }));
    }`;
  const unprivileged = Bun.$`setpriv --bounding-set=-all ${process.execPath} -e ${script}`;
  expect(await unprivileged.json()).toEqual({ call: "batch", code: "EPERM", index: -1 });
});

test("a batch of hundreds of refusals does not confuse the next request", () => {
  const wrong = Array.from({ length: 500 }, () => deleteTable({ ...table, name: "missing" }));
  expect(refusal(socket, wrong).index).toBe(0);
  expect(refusal(socket, [newTable(table), ...wrong]).index).toBe(1);
  expect(tablesOf(socket)).toEqual([]);
  socket.batch([newTable(table)]);
  expect(tablesOf(socket)).toHaveLength(1);
});

test("sets hold thousands of ranges, and lose them", () => {
  const canForce = sys.getsockopt(socket.fd, SOL_SOCKET, SO_SNDBUF) > 2 ** 20;
  const ranges = Array.from({ length: canForce ? 20_000 : 2000 }, (_, i) => ({
    first: Uint8Array.of(10, i >> 8, i & 0xff, 16),
    last: Uint8Array.of(10, i >> 8, i & 0xff, 31),
  }));
  const set = { ...set4, flags: NFT_SET_INTERVAL };
  const elements = intervalElements(ranges);
  socket.batch([newTable(table), newSet(set), ...newElements(set, elements)]);
  expect(elementRanges(elementsNow())).toEqual(ranges);
  const { id: _, ...made } = set;
  socket.batch(deleteElements(made, elements.slice(1, 3)));
  expect(elementRanges(elementsNow())).toEqual(ranges.slice(1));
  const six = { ...made, name: "hosts", id: 7, keyType: TYPE_IP6ADDR, keyLength: 16, flags: 0 };
  const key = ip("2001:db8::1");
  socket.batch([deleteSet(made), newSet(six), ...newElements(six, [{ key }])]);
  expect(socket.dump(dumpSets(NFPROTO_INET, "tproxyd"), decodeSet)).toMatchObject([
    { name: "hosts" },
  ]);
  expect(socket.dump(dumpElements(six), decodeElements).flat()).toEqual([{ key }]);
});

test("a batch too large for the socket is an error that names it", () => {
  const message = newFirewallRule({ ...inChain, expressions: expressions[0] ?? [] });
  const huge = Array.from({ length: 40_000 }, () => message);
  expect(() => socket.batch(huge)).toThrow(
    new SyscallError("send", EMSGSIZE, "NFT_MSG_NEWRULE").message,
  );
  expect(tablesOf(socket)).toEqual([]);
});

test("buffers are where they were after many collections", () => {
  socket.batch(skeleton);
  for (let round = 0; round < 50; round++) {
    socket.batch([deleteFirewallRule(inChain), ...rules.slice(3).map(newFirewallRule)]);
    Bun.gc(true);
    const kept = rulesNow().map(({ expressions }) => expressions);
    Bun.gc(true);
    expect(kept).toEqual(expressions.slice(3));
  }
});

testWith(["nft"])("a dump that others change meanwhile is whole", async () => {
  const wanted = 300;
  const many = Array.from({ length: wanted }, () => ({ ...inChain, expressions: [counter()] }));
  socket.batch([...skeleton, ...many.map(newFirewallRule)]);
  const churn = "while :; do nft 'add table ip c; delete table ip c'; done";
  const child = Bun.spawn(["sh", "-c", `trap 'exit 0' TERM; ${churn}`]);
  try {
    for (let round = 0; round < 200; round++) {
      expect(rulesNow()).toHaveLength(wanted);
      await Bun.sleep(0);
    }
  } finally {
    child.kill();
    await child.exited;
  }
});

testWith(["nft"])("nft(8) shows what was set, and its own rules are read", async () => {
  const set = { ...set4, flags: NFT_SET_INTERVAL };
  const net = { first: ip("10.0.0.0"), last: ip("10.255.255.255") };
  const elements = newElements(set, intervalElements([net]));
  socket.batch([...skeleton, newSet(set), ...elements, ...rules.map(newFirewallRule)]);
  const listing = await Bun.$`nft --stateless list ruleset`.text();
  const lines = listing.split("\n").map((line) => line.trim());
  for (const line of [
    "type filter hook prerouting priority mangle; policy accept;",
    "type route hook output priority mangle; policy accept;",
    "elements = { 10.0.0.0/8 }",
    'ip daddr @nets return comment "rule 2"',
    'fib daddr type local jump aside comment "rule 4"',
  ]) {
    expect(lines).toContain(line);
  }
  const [first] = lines.filter((line) => line.includes("rule 0"));
  expect(first).toStartWith('iifname "veth0" ip daddr 8.8.8.8 tcp dport 80 counter');
  const { nftables } = await Bun.$`nft -j list ruleset`.json();
  const shown = nftables.filter((each: object) => "rule" in each);
  expect(shown).toHaveLength(rules.length);

  // What nft lists, it can be given; and of what it then makes of it nothing is unknown here.
  socket.batch([deleteTable(table)]);
  await Bun.$`nft -f - < ${Buffer.from(listing)}`;
  expect(rulesNow().map(({ expressions }) => expressions)).toEqual(expressions);
});
