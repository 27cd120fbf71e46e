import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { newNetworkElements } from "../../../../ffi/netlink/nftables/network-elements.ts";
import { intervalElements, newElements } from "../../../../ffi/netlink/nftables/set.ts";
import { aggregate, formatRange, rangesOf } from "../../../../src/capture/plan/networks.ts";
import { privateNetworks } from "../../../../src/capture/plan/private.ts";
import type { Family } from "../../../../src/net/address.ts";
import {
  type Cidr,
  cidrContains,
  formatCidr,
  networkOf,
  parseCidr,
} from "../../../../src/net/cidr.ts";

function cidr(text: string): Cidr {
  const result = parseCidr(text);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

const of = (family: Family, ...texts: string[]) => aggregate(texts.map(cidr), family);

/** Networks that often touch, overlap and contain each other: few bytes, few prefixes. */
const network = (family: Family) =>
  fc
    .tuple(fc.constantFrom(0, 10, 255), fc.nat(3), fc.constantFrom(0, 1, 254, 255), fc.nat(32))
    .map(([a, b, c, prefix]) => {
      const bytes = new Uint8Array(family === 4 ? 4 : 16);
      bytes.set([a, b, c, c]);
      bytes[bytes.length - 1] = c;
      return networkOf({ family, bytes }, family === 4 ? prefix : 4 * prefix);
    });

describe("aggregate", () => {
  test("by example", () => {
    const cases: [given: string[], expected: string[]][] = [
      [[], []],
      [["10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"], ["10.0.0.0/8"]],
      [["10.0.0.128/25", "10.0.0.0/25"], ["10.0.0.0/24"]],
      [
        ["10.0.1.0/24", "10.0.2.0/24"],
        ["10.0.1.0/24", "10.0.2.0/24"],
      ],
      [["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/23"], ["10.0.0.0/22"]],
      [["0.0.0.0/1", "128.0.0.0/1"], ["0.0.0.0/0"]],
      [["255.255.255.255", "255.255.255.254"], ["255.255.255.254/31"]],
    ];
    for (const [given, expected] of cases) {
      expect(of(4, ...given).map(formatCidr)).toEqual(expected);
    }
    expect(of(6, "::/1", "8000::/1", "10.0.0.0/8").map(formatCidr)).toEqual(["::/0"]);
  });

  for (const family of [4, 6] as const) {
    test(`IPv${family}: the same addresses, in networks that are ascending and apart`, () => {
      const some = fc.array(network(family), { maxLength: 12 });
      fc.assert(
        fc.property(some, network(family), (given, probe) => {
          const result = aggregate(given, family);
          const isIn = (networks: readonly Cidr[]) =>
            networks.some((each) => cidrContains(each, { family, bytes: probe.bytes }));
          expect(isIn(result)).toBe(isIn(given));
          // Nothing is covered that was not: each network of the result is made of given ones.
          const size = (networks: readonly Cidr[]) =>
            networks.reduce((sum, { prefix }) => sum + 2n ** BigInt(128 - prefix), 0n);
          const within = (each: Cidr) =>
            aggregate(
              given.filter((one) => cidrContains(each, one)),
              family,
            );
          for (const each of result) expect(size(within(each))).toBe(size([each]));
          for (const [i, each] of result.entries()) {
            const next = result[i + 1];
            if (next === undefined) continue;
            expect(Buffer.compare(each.bytes, next.bytes)).toBe(-1);
            expect(cidrContains(each, next)).toBe(false);
          }
          expect(aggregate(result, family)).toEqual(result);
        }),
        { numRuns: 500 },
      );
    });
  }

  test("20,000 networks in a moment that needs no patience", () => {
    const many = Array.from({ length: 20_000 }, (_, i) =>
      cidr(`${10 + (i >> 14)}.${(i >> 6) & 255}.${(i << 2) & 255}.0/23`),
    );
    expect(aggregate(many, 4).length).toBeLessThanOrEqual(20_000);
  });
});

describe("rangesOf and formatRange", () => {
  test("by example", () => {
    const text = (...networks: string[]) => rangesOf(of(4, ...networks)).map(formatRange);
    expect(text("10.0.1.0/24", "10.0.2.0/24")).toEqual(["10.0.1.0-10.0.2.255"]);
    expect(text("10.0.0.0/8", "192.0.2.1")).toEqual(["10.0.0.0/8", "192.0.2.1"]);
    expect(text("224.0.0.0/4", "240.0.0.0/4")).toEqual(["224.0.0.0/3"]);
    expect(text("0.0.0.0/0")).toEqual(["0.0.0.0/0"]);
    expect(text("255.255.255.255")).toEqual(["255.255.255.255"]);
    expect(rangesOf(of(6, "::1", "::2")).map(formatRange)).toEqual(["::1-::2"]);
  });

  test("ranges neither touch nor overlap, and cover as much as the networks", () => {
    const number = (bytes: Uint8Array) => BigInt(`0x${bytes.toHex()}`);
    fc.assert(
      fc.property(fc.array(network(4), { maxLength: 12 }), (given) => {
        const networks = aggregate(given, 4);
        const ranges = rangesOf(networks);
        const covered = ranges.reduce(
          (sum, { first, last }) => sum + number(last) - number(first) + 1n,
          0n,
        );
        expect(covered).toBe(networks.reduce((sum, n) => sum + 2n ** BigInt(32 - n.prefix), 0n));
        for (const [i, { last }] of ranges.entries()) {
          const next = ranges[i + 1];
          if (next !== undefined) expect(number(next.first)).toBeGreaterThan(number(last) + 1n);
        }
      }),
    );
  });
});

describe("what is private", () => {
  const isPrivate = (text: string) =>
    privateNetworks.some((each) => cidrContains(each, cidr(text)));

  test("is none of the public Internet's", () => {
    for (const address of [
      ...["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.1.1"],
      ...["100.64.0.1", "224.0.0.251", "255.255.255.255", "0.0.0.0", "::1", "fe80::1", "fd00::1"],
      ...["ff02::fb", "::"],
    ]) {
      expect({ address, isPrivate: isPrivate(address) }).toEqual({ address, isPrivate: true });
    }
  });

  test("and nothing more", () => {
    for (const address of [
      ...["8.8.8.8", "172.32.0.1", "172.15.255.255", "192.167.255.255", "100.63.255.255"],
      ...["100.128.0.0", "11.0.0.0", "223.255.255.255", "2001:4860:4860::8888", "::2", "fe00::1"],
      ...["64:ff9b::1", "203.0.113.1"],
    ]) {
      expect({ address, isPrivate: isPrivate(address) }).toEqual({ address, isPrivate: false });
    }
  });
});

test("networks are written as the elements of their ranges", () => {
  const set = { family: 1, table: "t", name: "s", id: 7 };
  const check = (networks: readonly Cidr[]) => {
    const expected = newElements(set, intervalElements(rangesOf(networks)));
    expect(newNetworkElements(set, networks)).toEqual(expected);
  };
  for (const family of [4, 6] as const) {
    fc.assert(fc.property(fc.array(network(family)), (some) => check(aggregate(some, family))));
    check([]);
  }
  check(of(4, "0.0.0.0/0"));
  check(of(4, "0.0.0.0", "255.255.255.255"));
  check(of(6, "::/1", "8000::/2"));
  // Several messages, with and without a rest.
  for (const count of [499, 500, 501, 1_500]) {
    check(of(4, ...Array.from({ length: count }, (_, i) => `10.${i >> 8}.${i & 255}.1`)));
  }
});

test("the halves of a network become it again, at every prefix", () => {
  for (const [family, bits] of [
    [4, 32],
    [6, 128],
  ] as const) {
    const bytes = new Uint8Array(bits / 8).fill(0x5a);
    for (let prefix = 1; prefix <= bits; prefix++) {
      const whole = networkOf({ family, bytes }, prefix - 1);
      const low = { ...whole, prefix };
      const high = { ...low, bytes: low.bytes.slice() };
      const at = (prefix - 1) >> 3;
      high.bytes[at] = (high.bytes[at] as number) | (1 << (7 - ((prefix - 1) & 7)));
      expect(aggregate([high, low], family)).toEqual([whole]);
      const isTop = prefix > 1 && (high.bytes[0] as number) < 0x80;
      if (!isTop) continue;
      const other = { ...high, bytes: high.bytes.slice() };
      other.bytes[0] = (other.bytes[0] as number) | 0x80;
      expect(aggregate([low, other], family)).toEqual([low, other]);
    }
  }
});
