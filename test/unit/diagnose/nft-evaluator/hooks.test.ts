/** The reading of nf_tables' rules: what they do to a packet, and what cannot be known. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import * as k from "../../../../ffi/netlink/constants.ts";
import type { Link } from "../../../../ffi/netlink/link.ts";
import { compare, NFT_CMP_LT } from "../../../../ffi/netlink/nftables/expr/cmp.ts";
import { verdict } from "../../../../ffi/netlink/nftables/expr/immediate.ts";
import { lookup, NFT_LOOKUP_F_INV } from "../../../../ffi/netlink/nftables/expr/lookup.ts";
import {
  NFT_PAYLOAD_TRANSPORT_HEADER,
  payload,
} from "../../../../ffi/netlink/nftables/expr/payload.ts";
import { NFT_RANGE_NEQ } from "../../../../ffi/netlink/nftables/expr/range.ts";
import type { Expression } from "../../../../ffi/netlink/nftables/expressions.ts";
import { networkOrder16 } from "../../../../ffi/netlink/nftables/registers.ts";
import * as nft from "../../../../ffi/netlink/nftables/statements.ts";
import type { Surroundings, TproxyLookup } from "../../../../src/diagnose/nft-evaluator/context.ts";
import { freshState } from "../../../../src/diagnose/nft-evaluator/state.ts";
import { isAccepted, passIn } from "../../../../src/diagnose/nft-evaluator/walk.ts";
import type { Packet } from "../../../../src/diagnose/packet.ts";
import { type RuledChain, setContents, setKey } from "../../../../src/diagnose/snapshot/ruleset.ts";
import { cidrContains, networkOf } from "../../../../src/net/cidr.ts";
import { prefix } from "../../../helpers/addresses.ts";

const packet: Packet = {
  protocol: "tcp",
  source: { family: 4, bytes: Uint8Array.of(192, 0, 2, 2) },
  destination: { family: 4, bytes: Uint8Array.of(8, 8, 8, 8) },
  port: 80,
  iif: "eth0",
  destinationType: k.RTN_UNICAST,
};

type Expressions = readonly Expression[];

/** `th dport != 81-90` */
function destinationPortsBut(first: number, last: number): Expressions {
  return [
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
    {
      ...{ kind: "range", op: NFT_RANGE_NEQ, sreg: k.NFT_REG_1 },
      ...{ from: networkOrder16(first), to: networkOrder16(last) },
    },
  ];
}

function chain(rules: readonly Expressions[], changes: Partial<RuledChain> = {}): RuledChain {
  const base = { type: "filter", hook: k.NF_INET_PRE_ROUTING, priority: -150, policy: k.NF_ACCEPT };
  const reference = { family: k.NFPROTO_INET, table: "t", name: "c", base, ...changes };
  return {
    ...reference,
    rules: rules.map((expressions, i) => ({
      family: reference.family,
      table: reference.table,
      chain: reference.name,
      expressions,
      handle: BigInt(i + 1),
    })),
  };
}

const found: TproxyLookup = () => true;
const none: TproxyLookup = () => false;

const links: readonly Link[] = [
  { index: 1, name: "lo", up: true, running: true, loopback: true },
  { index: 2, name: "eth0", up: true, running: true, loopback: false, kind: "veth" },
];
const noTables = { rules: [], routes: [] };

/** The best way of a packet through the prerouting hook, and the rules that leave a doubt. */
function pass(
  chains: readonly RuledChain[],
  changes: Partial<Packet> = {},
  look = found,
  around: Partial<Surroundings> = {},
) {
  const surroundings: Surroundings = {
    ruleset: { chains, sets: new Map() },
    links,
    policy: { 4: noTables, 6: noTables },
    tproxyTakes: look,
    listener: undefined,
    ...around,
  };
  const sent = { ...packet, ...changes };
  const passage = passIn(surroundings, sent, freshState(), isAccepted);
  const ways = [passage, ...passage.others];
  return { ...passage, unknown: ways.flatMap(({ doubts }) => doubts) };
}

const v4 = nft.family(k.NFPROTO_IPV4);
const tcp = nft.protocol(6);
const mark = nft.setMark(1, 1);
const to8 = nft.address("destination", { address: packet.destination.bytes, length: 32 });
const address9 = Uint8Array.of(9, 9, 9, 9);
const to9 = nft.address("destination", { address: address9, length: 32 });

describe("matches", () => {
  const matching: [name: string, expressions: Expressions][] = [
    ["an address", [...v4, ...to8]],
    ["a port", [...tcp, ...nft.ports("destination", [80, 80])]],
    ["a range of ports", [...tcp, ...nft.ports("destination", [1, 1023])]],
    ["all ports but others", [...tcp, ...destinationPortsBut(81, 90)]],
    ["an interface", nft.inputInterface("eth0")],
    ["interfaces by how they begin", nft.inputInterface("et*")],
    ["no mark", nft.markIs(0, 1)],
    ["a prefix within a byte", nft.address("source", prefix("192.0.2.0/23"))],
  ];
  test.each(matching)("%s", (_, expressions) => {
    expect(pass([chain([[...expressions, ...mark]])]).mark).toBe(1);
  });

  const missing: [name: string, expressions: Expressions][] = [
    ["another address", [...v4, ...to9]],
    ["another port", [...tcp, ...nft.ports("destination", [443, 443])]],
    ["a range beside", [...tcp, ...nft.ports("destination", [81, 1023])]],
    ["another protocol", nft.protocol(17)],
    ["another family", nft.family(k.NFPROTO_IPV6)],
    ["another interface", nft.inputInterface("eth1")],
    ["this host's own", nft.localDestination()],
    ["a socket, of which there is none", nft.transparentSocket(false)],
  ];
  test.each(missing)("%s is no match", (_, expressions) => {
    const passage = pass([chain([[...expressions, ...mark]])]);
    expect(passage).toMatchObject({ mark: 0, unknown: [] });
  });

  test("a reply belongs to its socket, and is no first packet", () => {
    const divert = [...nft.transparentSocket(false), ...mark];
    const socket = { transparent: true, wildcard: false };
    const reply = { stage: "answer", socket } as const;
    expect(pass([chain([divert])], reply).mark).toBe(1);
    expect(pass([chain([divert])], { socket: { transparent: true, wildcard: true } }).mark).toBe(0);
    expect(pass([chain([[...nft.replyDirection(), ...mark]])], reply).mark).toBe(1);
    const nobody = [...nft.transparentSocket(), ...nft.tproxyTo(1), ...mark];
    const passage = pass([chain([nobody])], reply, none);
    expect(passage).toMatchObject({ mark: 1, tproxy: undefined, missed: undefined });
  });

  test("sets, by their elements", () => {
    const set = (first: number[], flags: number) => {
      const named = { family: k.NFPROTO_INET, table: "t", name: "s", keyType: 7, keyLength: 4 };
      const end = { key: Uint8Array.of(9, 0, 0, 0), flags: k.NFT_SET_ELEM_INTERVAL_END };
      const elements = [{ key: Uint8Array.from(first) }, end];
      const contents = setContents({ ...named, flags: k.NFT_SET_INTERVAL }, elements);
      const load = nft.addressInSet("destination", k.NFPROTO_IPV4, { name: "s" }, flags);
      const sets = new Map([[setKey(k.NFPROTO_INET, "t", "s"), contents]]);
      const chains = [chain([[...load, ...mark]])];
      return pass(chains, {}, found, { ruleset: { chains, sets } }).mark;
    };
    expect(set([8, 0, 0, 0], 0)).toBe(1);
    expect(set([8, 8, 8, 9], 0)).toBe(0);
    expect(set([8, 8, 8, 9], NFT_LOOKUP_F_INV)).toBe(1);
  });

  test("a prefix matches as cidrContains says", () => {
    const bytes = fc.uint8Array({ minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(bytes, fc.integer({ min: 1, max: 32 }), bytes, (network, length, other) => {
        const { bytes: address } = networkOf({ family: 4, bytes: network }, length);
        const destination = { family: 4, bytes: other } as const;
        const rule = [...nft.address("destination", { address, length }), ...mark];
        const isWithin = cidrContains({ family: 4, bytes: address, prefix: length }, destination);
        expect(pass([chain([rule])], { destination }).mark).toBe(isWithin ? 1 : 0);
      }),
    );
  });
});

describe("effects", () => {
  test("a mark leaves the other bits, and names its rule", () => {
    const passage = pass([chain([nft.setMark(0x10, 0xf0), mark])]);
    expect(passage.mark).toBe(0x11);
    expect(passage.marking.map(({ rule }) => rule)).toEqual([
      "inet t c handle 1",
      "inet t c handle 2",
    ]);
  });

  test("chains run by priority; accept ends one, drop all", () => {
    const early = chain([[verdict(k.NF_ACCEPT)], mark], { name: "early", base: base(-300) });
    const late = chain([nft.setMark(2, 2)], { name: "late", base: base(0) });
    expect(pass([late, early])).toMatchObject({ mark: 2, verdict: "accept" });
    const dropping = chain([[...tcp, verdict(k.NF_DROP)]], { name: "drop", base: base(-200) });
    expect(pass([late, dropping])).toMatchObject({
      verdict: "drop",
      mark: 0,
      dropped: { rule: "inet t drop handle 1" },
    });
  });

  test("a policy of drop is named", () => {
    const closed = chain([], { base: { ...base(0), policy: k.NF_DROP } });
    expect(pass([closed]).dropped).toMatchObject({ rule: "inet t c", isPolicy: true });
  });

  test("jump comes back, goto does not", () => {
    const { base: _, ...other } = chain([mark], { name: "other" });
    const jumping = chain([[verdict(k.NFT_JUMP, "other")], nft.setMark(2, 2)]);
    expect(pass([jumping, other]).mark).toBe(3);
    const going = chain([[verdict(k.NFT_GOTO, "other")], nft.setMark(2, 2)]);
    expect(pass([going, other]).mark).toBe(1);
  });

  test("tproxy finds a listener, or breaks the rule off", () => {
    const rules = [[...tcp, ...mark, ...nft.tproxyTo(50080), ...nft.setMark(2, 2)]];
    expect(pass([chain(rules)])).toMatchObject({ mark: 3, tproxy: { port: 50080 } });
    expect(pass([chain(rules)], {}, none)).toMatchObject({
      mark: 1,
      tproxy: undefined,
      missed: { port: 50080, address: undefined },
    });
    const local = Uint8Array.of(127, 0, 0, 1);
    const named = [[...v4, ...tcp, ...nft.tproxyTo(50080, local)]];
    expect(pass([chain(named)]).tproxy?.address).toEqual(local);
  });
});

describe("what cannot be known", () => {
  // How many bytes the connection has had: nobody can tell before the packet is there.
  const bytes = { kind: "ct", key: 15, dreg: k.NFT_REG_1 } as const;
  const isSmall = [bytes, compare(Uint8Array.of(0, 0, 0, 9), NFT_CMP_LT)];
  const ways = (chains: readonly RuledChain[]): unknown[] => {
    const passage = pass(chains);
    return [passage, ...passage.others].map(({ verdict, mark: left, doubts }) => ({
      verdict,
      mark: left,
      doubts: doubts.map(({ rule }) => rule),
    }));
  };

  test("is followed both ways if it would matter, and names its rule", () => {
    expect(ways([chain([[...isSmall, ...mark]])])).toEqual([
      { verdict: "accept", mark: 0, doubts: ["inet t c handle 1"] },
      { verdict: "accept", mark: 1, doubts: ["inet t c handle 1"] },
    ]);
    expect(ways([chain([[...isSmall, verdict(k.NF_DROP)]])])).toEqual([
      { verdict: "accept", mark: 0, doubts: ["inet t c handle 1"] },
      { verdict: "drop", mark: 0, doubts: ["inet t c handle 1"] },
    ]);
    const unread = [...to8.slice(0, 1), lookup({ name: "unread" }), ...mark];
    expect(ways([chain([unread])])).toHaveLength(2);
  });

  test("is no matter if another condition is not met, or nothing is done", () => {
    const sure = [{ verdict: "accept", mark: 0, doubts: [] }];
    expect(ways([chain([[...isSmall, ...to9, ...mark]])])).toEqual(sure);
    expect(ways([chain([isSmall])])).toEqual(sure);
    const logged: Expression = { kind: "other", name: "log", data: new Uint8Array() };
    expect(ways([chain([[...isSmall, logged]])])).toEqual(sure);
  });

  test("is no matter if all goes the same way whatever it is", () => {
    const accepting = chain([[...isSmall, verdict(k.NF_ACCEPT)], [verdict(k.NF_ACCEPT)]]);
    expect(ways([accepting])).toEqual([{ verdict: "accept", mark: 0, doubts: [] }]);
    const closed = chain([[...isSmall, verdict(k.NF_DROP)], [verdict(k.NF_DROP)]]);
    expect(ways([closed])).not.toContainEqual(expect.objectContaining({ verdict: "accept" }));
  });

  test("an expression of a later kernel may do anything", () => {
    const later: Expression = { kind: "other", name: "later", data: new Uint8Array() };
    expect(ways([chain([[later, ...mark]])])).toMatchObject([
      { verdict: "accept" },
      { verdict: "drop" },
    ]);
  });
});

describe("iptables' extensions", () => {
  const compat = (kind: "match" | "target", name: string, info: Uint8Array): Expression => {
    return { kind, name, revision: 1, info };
  };
  const words = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);

  test("MARK and TPROXY, which drops when nobody listens", () => {
    expect(pass([chain([[compat("target", "MARK", words(1, 1))]])]).mark).toBe(1);
    const info = new Uint8Array(32);
    info.set(words(1, 1));
    info.set([0xc3, 0xa0], 24);
    const tproxy = [compat("target", "TPROXY", info)];
    expect(pass([chain([tproxy])])).toMatchObject({ mark: 1, tproxy: { port: 50080 } });
    expect(pass([chain([tproxy])], {}, none)).toMatchObject({
      verdict: "drop",
      missed: { port: 50080 },
    });
  });

  test("addrtype, mark, socket and multiport", () => {
    const addrtype = (type: number, inverted: number) => {
      const info = new Uint8Array(8);
      new DataView(info.buffer).setUint16(2, 1 << type, true);
      info[4] = inverted;
      return compat("match", "addrtype", info);
    };
    const marks = (expression: Expression) => pass([chain([[expression, ...mark]])]).mark;
    expect(marks(addrtype(k.RTN_LOCAL, 0))).toBe(0);
    expect(marks(addrtype(k.RTN_LOCAL, 2))).toBe(1);
    expect(marks(compat("match", "mark", words(5, 5, 0)))).toBe(0);
    expect(marks(compat("match", "mark", words(5, 5, 1)))).toBe(1);
    expect(marks(compat("match", "socket", Uint8Array.of(1)))).toBe(0);
    const multiport = new Uint8Array(48);
    multiport.set([1, 2, 70, 0, 90, 0]);
    expect(marks(compat("match", "multiport", multiport))).toBe(0);
    multiport[32] = 1;
    expect(marks(compat("match", "multiport", multiport))).toBe(1);
  });

  test("what is not known is told, and garbage throws nothing", () => {
    const unknown = [compat("match", "geoip", new Uint8Array()), ...mark];
    expect(pass([chain([unknown])]).unknown[0]?.reason).toBe("-m geoip");
    const names = fc.constantFrom("match", "target");
    const extensions = fc.constantFrom("MARK", "TPROXY", "tcp", "multiport", "addrtype", "socket");
    fc.assert(
      fc.property(names, extensions, fc.uint8Array({ maxLength: 60 }), (kind, name, info) => {
        pass([chain([[compat(kind as "match", name, info), ...mark]])]);
      }),
    );
  });
});

function base(priority: number) {
  return { type: "filter", hook: k.NF_INET_PRE_ROUTING, priority, policy: k.NF_ACCEPT };
}
