/** Every object of `ffi/netlink/` decodes to what it was encoded from; garbage to a WireError. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../../ffi/constants.ts";
import { decodeAddress, newAddress } from "../../../../ffi/netlink/address.ts";
import {
  NFT_SET_ELEM_INTERVAL_END,
  NFTA_RULE_CHAIN,
  NFTA_RULE_HANDLE,
  NFTA_RULE_TABLE,
  NFTA_RULE_USERDATA,
} from "../../../../ffi/netlink/constants.ts";
import { decodeLink, newLink } from "../../../../ffi/netlink/link.ts";
import { nftMessage } from "../../../../ffi/netlink/nftables/batch.ts";
import { decodeChain, newChain } from "../../../../ffi/netlink/nftables/chain.ts";
import {
  decodeTimeoutObject,
  newTimeoutObject,
  tcpTimeouts,
  udpTimeouts,
} from "../../../../ffi/netlink/nftables/ct-timeout.ts";
import type { Expression } from "../../../../ffi/netlink/nftables/expressions.ts";
import { decodeFlowtable, newFlowtable } from "../../../../ffi/netlink/nftables/flowtable.ts";
import {
  counterOf,
  decodeFirewallRule,
  newFirewallRule,
} from "../../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  elementRanges,
  intervalElements,
  newElements,
  newSet,
} from "../../../../ffi/netlink/nftables/set.ts";
import * as statements from "../../../../ffi/netlink/nftables/statements.ts";
import { decodeTable, newTable } from "../../../../ffi/netlink/nftables/table.ts";
import { decodeRoute, newRoute, usualScope } from "../../../../ffi/netlink/route.ts";
import { decodeRule, newRule } from "../../../../ffi/netlink/rule.ts";
import { WireError } from "../../../../ffi/netlink/wire.ts";
import { prefix } from "../../../helpers/addresses.ts";

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const positive = fc.integer({ min: 1, max: 0xffff_ffff });
const index = fc.integer({ min: 1, max: 0x7fff_ffff });
const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const name = fc.string({ minLength: 1, maxLength: 15 }).filter((text) => !text.includes("\0"));
const yes = fc.constant(true as const);

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const data = fc.uint8Array({ minLength: 1, maxLength: 16 });
const range = fc.tuple(u16, u16);

/** What `of` makes for a family, with addresses of that family. */
function ofFamily<T>(of: (family: number, address: fc.Arbitrary<Uint8Array>) => fc.Arbitrary<T>) {
  return fc.oneof(of(AF_INET, bytes(4)), of(AF_INET6, bytes(16)));
}

const prefixOf = (address: fc.Arbitrary<Uint8Array>) =>
  address.chain((value) =>
    fc.record({ address: fc.constant(value), length: fc.nat(8 * value.length) }),
  );

const addresses = ofFamily((_, address) =>
  fc
    .record(
      {
        index,
        address,
        prefixLength: u8,
        peer: address,
        scope: fc.integer({ min: 1, max: 255 }),
        flags: positive,
        broadcast: address,
        label: name,
      },
      { requiredKeys: ["index", "address", "prefixLength"] },
    )
    .filter(({ address, peer }) => peer === undefined || peer.toHex() !== address.toHex()),
);

const routes = ofFamily((family, address) =>
  fc
    .record(
      {
        family: fc.constant(family),
        type: u8,
        table: u32,
        protocol: u8,
        destination: prefixOf(address),
        source: prefixOf(address),
        gateway: address,
        oif: u32,
        iif: u32,
        preferredSource: address,
        priority: u32,
        scope: u8,
        flags: positive,
      },
      { requiredKeys: ["family", "type", "table", "protocol"] },
    )
    .filter((route) => route.scope !== usualScope(route)),
);

const rules = ofFamily((family, address) =>
  fc.record(
    {
      family: fc.constant(family),
      priority: u32,
      action: fc.integer({ min: 2, max: 255 }),
      table: u32,
      protocol: u8,
      mark: u32,
      mask: u32,
      source: prefixOf(address),
      destination: prefixOf(address),
      iif: name,
      oif: name,
      invert: yes,
      ipProtocol: u8,
      sourcePorts: range,
      destinationPorts: range,
      uids: fc.tuple(u32, u32),
      goto: u32,
      suppressPrefixLength: fc.nat(128),
      l3mdev: yes,
    },
    { requiredKeys: ["family", "table"] },
  ),
);

const table = { family: u8, table: name };
const masks = fc
  .integer({ min: 1, max: 16 })
  .chain((length) => fc.record({ mask: bytes(length), xor: bytes(length) }));

const kind = <Kind extends Expression["kind"]>(value: Kind) => fc.constant(value);
const expressions: fc.Arbitrary<Expression> = fc.oneof(
  fc.tuple(u32, u32, masks).map(([sreg, dreg, both]) => ({
    kind: "bitwise" as const,
    sreg,
    dreg,
    ...both,
  })),
  fc.record({ kind: kind("cmp"), op: u32, sreg: u32, data }),
  fc.record({ kind: kind("counter"), packets: u64, bytes: u64 }),
  fc.record(
    { kind: kind("bit operation"), op: positive, sreg: u32, dreg: u32, length: u32, operand: data },
    { requiredKeys: ["kind", "op", "sreg", "dreg", "length"] },
  ),
  fc.record({
    ...{ kind: kind("bit operation"), op: positive, sreg: u32, dreg: u32, length: u32 },
    operandRegister: u32,
  }),
  fc.record({ kind: kind("byteorder"), sreg: u32, dreg: u32, op: u32, length: u32, size: u32 }),
  fc.record({ kind: kind("connlimit"), count: u32, flags: u32 }),
  fc.record(
    { kind: kind("ct"), key: u32, dreg: u32, direction: u8 },
    { requiredKeys: ["kind", "key", "dreg"] },
  ),
  fc.record(
    { kind: kind("ct set"), key: u32, sreg: u32, direction: u8 },
    { requiredKeys: ["kind", "key", "sreg"] },
  ),
  fc.record(
    {
      ...{ kind: kind("exthdr"), op: u32, type: u8, offset: u32, length: u32 },
      ...{ flags: positive, dreg: u32, sreg: u32 },
    },
    { requiredKeys: ["kind", "op", "type", "offset", "length"] },
  ),
  fc.record({ kind: kind("limit"), rate: u64, unit: u64, burst: u32, type: u32, flags: u32 }),
  fc.record({ kind: kind("match"), name, revision: u32, info: bytes(8) }),
  fc.record({ kind: kind("target"), name, revision: u32, info: bytes(8) }),
  fc.record(
    {
      ...{ kind: kind("payload set"), base: u32, offset: u32, length: u32, sreg: u32 },
      ...{ checksumType: u32, checksumOffset: u32, checksumFlags: u32 },
    },
    { requiredKeys: ["kind", "base", "offset", "length", "sreg"] },
  ),
  fc.record({ kind: kind("quota"), bytes: u64, consumed: u64, flags: u32 }),
  fc.record(
    { kind: kind("redir"), portRegister: u32, lastPortRegister: u32, flags: positive },
    { requiredKeys: ["kind"] },
  ),
  fc.record({ kind: kind("reject"), type: u32, code: u8 }, { requiredKeys: ["kind", "type"] }),
  fc.record(
    {
      ...{ kind: kind("nat"), type: u32, family: u32, addressRegister: u32 },
      ...{ lastAddressRegister: u32, portRegister: u32, lastPortRegister: u32, flags: positive },
    },
    { requiredKeys: ["kind", "type", "family"] },
  ),
  fc.record(
    { kind: kind("masq"), portRegister: u32, lastPortRegister: u32, flags: positive },
    { requiredKeys: ["kind"] },
  ),
  fc.record({ kind: kind("numgen"), dreg: u32, modulus: u32, type: u32, offset: u32 }),
  fc.record(
    {
      ...{ kind: kind("hash"), sreg: u32, length: u32, dreg: u32, modulus: u32, seed: u32 },
      ...{ offset: u32, type: u32 },
    },
    { requiredKeys: ["kind", "dreg", "modulus", "offset", "type"] },
  ),
  fc.record({ kind: kind("flow_offload"), flowtable: name }),
  fc.record(
    { kind: kind("objref"), type: u32, name, sreg: u32, set: name, setId: u32 },
    { requiredKeys: ["kind"] },
  ),
  fc.record({ kind: kind("fib"), result: u32, flags: u32, dreg: u32 }),
  fc.record({ kind: kind("immediate"), dreg: u32, data }),
  fc.record(
    { kind: kind("verdict"), code: fc.integer({ min: -5, max: 5 }), chain: name },
    { requiredKeys: ["kind", "code"] },
  ),
  fc.record(
    { kind: kind("lookup"), set: name, sreg: u32, setId: u32, flags: positive },
    { requiredKeys: ["kind", "set", "sreg"] },
  ),
  fc.record({ kind: kind("meta"), key: u32, dreg: u32 }),
  fc.record({ kind: kind("meta set"), key: u32, sreg: u32 }),
  fc.record({ kind: kind("payload"), base: u32, offset: u32, length: u32, dreg: u32 }),
  fc.record({ kind: kind("range"), op: u32, sreg: u32, from: data, to: data }),
  fc.record(
    { kind: kind("socket"), key: u32, dreg: u32, level: positive },
    { requiredKeys: ["kind", "key", "dreg"] },
  ),
  fc.record(
    { kind: kind("tproxy"), family: u32, addressRegister: u32, portRegister: u32 },
    { requiredKeys: ["kind", "family"] },
  ),
  fc.record({
    kind: kind("other"),
    name: fc.constantFrom("log", "rt", "toString"),
    data: bytes(8),
  }),
);

const firewallRules = fc.record(
  {
    ...table,
    chain: name,
    expressions: fc.array(expressions),
    comment: fc.string({ maxLength: 100 }).filter((text) => !text.includes("\0")),
    position: u64,
  },
  { requiredKeys: ["family", "table", "chain", "expressions"] },
);

const chains = fc.record(
  {
    ...table,
    name,
    base: fc.record(
      {
        type: name,
        hook: u32,
        priority: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
        policy: u32,
        devices: fc.array(name, { minLength: 1, maxLength: 3 }),
      },
      { requiredKeys: ["type", "hook", "priority", "policy"] },
    ),
  },
  { requiredKeys: ["family", "table", "name"] },
);

const sets = fc.record(
  {
    ...{ ...table, name, id: positive, keyType: u32, keyLength: u32, flags: positive },
    ...{ dataType: u32, dataLength: u32 },
  },
  { requiredKeys: ["family", "table", "name", "keyType", "keyLength"] },
);

const flowtables = fc.record(
  {
    ...{ ...table, name, priority: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }) },
    ...{ devices: fc.array(name, { maxLength: 3 }), flags: positive },
  },
  { requiredKeys: ["family", "table", "name", "priority", "devices"] },
);

const policyOf = (states: Readonly<Record<string, number>>) =>
  fc.record(Object.fromEntries(Object.keys(states).map((state) => [state, u32])), {
    requiredKeys: [],
  });
const timeoutObjects = fc
  .constantFrom([IPPROTO_TCP, tcpTimeouts] as const, [IPPROTO_UDP, udpTimeouts] as const)
  .chain(([protocol, states]) =>
    fc.record({
      ...{ ...table, name, network: fc.integer({ min: 0, max: 0xffff }) },
      ...{ protocol: fc.constant(protocol), policy: policyOf(states) },
    }),
  );

const tables = fc.record(
  { family: u8, name, flags: positive },
  { requiredKeys: ["family", "name"] },
);

/** Asserts that decoding undoes encoding. */
function undoes<T>(values: fc.Arbitrary<T>, recode: (value: T) => unknown): void {
  fc.assert(fc.property(values, (value) => expect<unknown>(recode(value)).toStrictEqual(value)));
}

describe("decoding undoes encoding", () => {
  test("InterfaceAddress", () => undoes(addresses, (x) => decodeAddress(newAddress(x).body)));
  test("Route", () => undoes(routes, (x) => decodeRoute(newRoute(x).body)));
  test("Rule", () => undoes(rules, (x) => decodeRule(newRule(x).body)));
  test("Table", () => undoes(tables, (x) => decodeTable(newTable(x).body)));
  test("Chain", () => undoes(chains, (x) => decodeChain(newChain(x).body)));
  test("NamedSet", () => undoes(sets, (x) => decodeSet(newSet(x).body)));
  test("Flowtable", () => undoes(flowtables, (x) => decodeFlowtable(newFlowtable(x).body)));
  test("TimeoutObject", () =>
    undoes(timeoutObjects, (x) => decodeTimeoutObject(newTimeoutObject(x).body)));
  test("FirewallRule and all expressions", () => {
    undoes(firewallRules, (x) => decodeFirewallRule(newFirewallRule(x).body));
  });

  test("SetElement, in messages of at most 1000", () => {
    const flags = fc.constant(NFT_SET_ELEM_INTERVAL_END);
    const element = fc.record({ key: bytes(16), flags }, { requiredKeys: ["key"] });
    const where = { family: 1, table: "t", name: "s" };
    const many = Array.from({ length: 2001 }, () => ({ key: new Uint8Array(16) }));
    expect(newElements(where, many)).toHaveLength(3);
    undoes(fc.array(element, { minLength: 1 }), (x) =>
      newElements(where, x).flatMap(({ body }) => decodeElements(body)),
    );
  });

  test("Link, as far as a new one has it", () => {
    const links = fc.record(
      { name, kind: name, index, up: yes, mtu: u32, address: bytes(6) },
      { requiredKeys: ["name", "kind", "index"] },
    );
    fc.assert(
      fc.property(links, (link) => {
        const read = decodeLink(newLink({ ...link, peer: { name: "p", namespace: 3 } }).body);
        expect(read).toStrictEqual({
          ...link,
          up: link.up ?? false,
          running: false,
          loopback: false,
        });
      }),
    );
  });
});

const decoders = [
  decodeAddress,
  decodeChain,
  decodeElements,
  decodeFirewallRule,
  decodeLink,
  decodeRoute,
  decodeRule,
  decodeSet,
  decodeTable,
];

/** Asserts that no decoder throws anything but a WireError. */
function survive(body: Uint8Array): void {
  for (const decode of decoders) {
    try {
      decode(body);
    } catch (error) {
      expect(error).toBeInstanceOf(WireError);
    }
  }
}

describe("garbage is a value or a WireError", () => {
  test("from random bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), survive), { numRuns: 1000 });
  });

  test("from messages with changed bytes and cut ends", () => {
    const bodies = fc.oneof(
      addresses.map((x) => newAddress(x).body),
      routes.map((x) => newRoute(x).body),
      rules.map((x) => newRule(x).body),
      chains.map((x) => newChain(x).body),
      flowtables.map((x) => newFlowtable(x).body),
      timeoutObjects.map((x) => newTimeoutObject(x).body),
      firewallRules.map((x) => newFirewallRule(x).body),
    );
    const changes = fc.array(fc.tuple(fc.nat(), u8), { maxLength: 3 });
    fc.assert(
      fc.property(bodies, changes, fc.nat(), (body, edits, cut) => {
        const changed = body.slice(0, body.length - (cut % 8 === 0 ? cut % body.length : 0));
        for (const [at, value] of edits) changed[at % changed.length] = value;
        survive(changed);
      }),
      { numRuns: 2000 },
    );
  });

  test("such as a prefix that is longer than its address", () => {
    const { body } = newRoute({
      family: AF_INET,
      type: 1,
      table: 254,
      protocol: 4,
      destination: prefix("192.0.2.0/24"),
    });
    body[1] = 33;
    expect(() => decodeRoute(body)).toThrow(new WireError("prefix length 33"));
  });
});

describe("intervals", () => {
  const ranges = fc.array(
    fc.tuple(u8, u8).map(([a, b]) => ({
      first: Uint8Array.of(Math.min(a, b)),
      last: Uint8Array.of(Math.max(a, b)),
    })),
  );
  const has = (list: readonly { first: Uint8Array; last: Uint8Array }[], key: number) =>
    list.some(({ first, last }) => (first[0] as number) <= key && key <= (last[0] as number));

  test("hold the keys of their ranges, merged, and read back so in any order", () => {
    fc.assert(
      fc.property(ranges, (some) => {
        const elements = intervalElements(some);
        const read = elementRanges(elements);
        expect(elementRanges(elements.toReversed())).toEqual(read);
        for (let key = 0; key < 256; key++) expect(has(read, key)).toBe(has(some, key));
        for (const [i, { last }] of read.entries()) {
          const next = read[i + 1]?.first[0] ?? 257;
          expect(next).toBeGreaterThan((last[0] as number) + 1);
        }
        expect(intervalElements(read)).toEqual(elements);
      }),
    );
  });

  test("of several bytes carry and borrow", () => {
    const keys = bytes(3).map((key) => key.toHex());
    fc.assert(
      fc.property(keys, keys, (a, b) => {
        const [first, last] = [a, b].sort().map((hex) => Uint8Array.fromHex(hex));
        const one = { first: first as Uint8Array, last: last as Uint8Array };
        expect(elementRanges(intervalElements([one]))).toEqual([one]);
      }),
      {
        examples: [
          ["000010", "0000ff"],
          ["0000ff", "00ffff"],
        ],
      },
    );
  });

  test("that touch, as other programs may make them", () => {
    const [one, two, three] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)];
    const elements = [{ key: one }, { key: two, flags: 1 }, { key: two }, { key: three, flags: 1 }];
    const expected = [
      { first: one, last: one },
      { first: two, last: two },
    ];
    expect(elementRanges(elements)).toEqual(expected);
    expect(elementRanges(elements.toReversed())).toEqual(expected);
  });

  test("at both ends of the space", () => {
    const all = { first: new Uint8Array(4), last: new Uint8Array(4).fill(255) };
    expect(intervalElements([all])).toEqual([{ key: all.first }]);
    expect(intervalElements([])).toEqual([]);
    expect(elementRanges([{ key: all.first }])).toEqual([all]);
  });

  test("that end or begin twice are an error", () => {
    const [one, two] = [Uint8Array.of(1), Uint8Array.of(2)];
    expect(() => elementRanges([{ key: one }, { key: two }])).toThrow(WireError);
    expect(() => elementRanges([{ key: one, flags: 1 }])).toThrow(WireError);
  });
});

describe("what the kernel adds", () => {
  /** A rule as a dump has it: with its handle, and user data of any program. */
  function dumped(userData: string) {
    const { body } = nftMessage("", 0, 0, 1, (to) => {
      to.cstring(NFTA_RULE_TABLE, "t");
      to.cstring(NFTA_RULE_CHAIN, "c");
      to.be64(NFTA_RULE_HANDLE, 7n);
      to.bytes(NFTA_RULE_USERDATA, Uint8Array.fromHex(userData));
    });
    return decodeFirewallRule(body);
  }

  test("handles, and comments among other user data", () => {
    const rule = { family: 1, table: "t", chain: "c", expressions: [], handle: 7n };
    expect(dumped("0003686900")).toStrictEqual({ ...rule, comment: "hi" });
    expect(dumped("0502aabb0003686900")).toStrictEqual({ ...rule, comment: "hi" });
    for (const hex of ["", "00", "0009686900", "0502aabb"]) {
      expect(dumped(hex)).toStrictEqual(rule);
    }
  });
});

describe("limits", () => {
  const rule = { family: 1, table: "t", chain: "c", expressions: [] };

  test("a comment of 127 bytes fits, one of 128 does not", () => {
    const { body } = newFirewallRule({ ...rule, comment: "x".repeat(127) });
    expect(decodeFirewallRule(body).comment).toHaveLength(127);
    expect(() => newFirewallRule({ ...rule, comment: "x".repeat(128) })).toThrow(RangeError);
  });

  test("an interface name has 1 to 15 bytes", () => {
    for (const bad of ["", "*", "x".repeat(16)]) {
      expect(() => statements.inputInterface(bad)).toThrow(RangeError);
    }
  });

  test("tables above 255 are an attribute", () => {
    const route = { family: AF_INET, type: 2, protocol: 4, oif: 1 };
    expect(newRoute({ ...route, table: 255 }).body[4]).toBe(255);
    expect(newRoute({ ...route, table: 256 }).body[4]).toBe(0);
    expect(decodeRoute(newRoute({ ...route, table: 256 }).body).table).toBe(256);
  });

  test("a rule without a counter has none", () => {
    expect(counterOf(rule)).toBeUndefined();
  });
});
