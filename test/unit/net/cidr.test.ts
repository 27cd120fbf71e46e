import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  addressBits,
  cidrContains,
  formatCidr,
  networkOf,
  parseCidr,
} from "../../../src/net/cidr.ts";

const address = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => ({ family: 4 as const, bytes })),
  fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => ({ family: 6 as const, bytes })),
);
const network = fc
  .tuple(address, fc.nat())
  .map(([at, n]) => networkOf(at, n % (addressBits(at.family) + 1)));

function parsed(text: string) {
  const result = parseCidr(text);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function error(text: string): string {
  const result = parseCidr(text);
  return result.ok ? "" : result.error;
}

describe("parseCidr", () => {
  test("reads networks and single addresses", () => {
    expect(parsed("10.0.0.0/8")).toEqual({
      family: 4,
      bytes: Uint8Array.of(10, 0, 0, 0),
      prefix: 8,
    });
    expect(parsed("8.8.8.8").prefix).toBe(32);
    expect(parsed("::1").prefix).toBe(128);
    expect(parsed("::/0").prefix).toBe(0);
  });

  test("says which network it would take when host bits are set", () => {
    expect(error("10.0.0.1/8")).toBe(
      '"10.0.0.1/8" has bits set after its prefix: give "10.0.0.0/8" for the network, ' +
        'or "10.0.0.1" for the one address',
    );
    expect(error("2001:db8::1/31")).toContain('give "2001:db8::/31"');
    expect(error("1.2.3.4/0")).toContain('give "0.0.0.0/0"');
  });

  test("says which prefixes there are", () => {
    for (const text of [
      "10.0.0.0/33",
      "10.0.0.0/",
      "10.0.0.0/08",
      "10.0.0.0/-1",
      "10.0.0.0/255.0.0.0",
    ]) {
      expect(error(text)).toContain("an IPv4 network is a number from 0 to 32");
    }
    expect(error("::/129")).toContain("an IPv6 network is a number from 0 to 128");
  });

  test("refuses what is no network", () => {
    for (const text of ["", "/8", "10/8", "10.0.0.0/8/8", "fe80::1%lo/64", "a/8", "1.2.3.4 /32"]) {
      expect(parseCidr(text).ok).toBe(false);
    }
  });

  test("reads back what formatCidr writes", () => {
    fc.assert(fc.property(network, (cidr) => expect(parsed(formatCidr(cidr))).toEqual(cidr)));
  });
});

describe("networks of IPv4, which have a way of their own", () => {
  test.each([
    ...["1.2.3.4/", "1.2.3.4/33", "1.2.3.4/032", "1.2.3.0/024", "1.2.3.0/24/", "1.2.3.0/24.0"],
    ...["01.2.3.4", "1.2.3", "1.2.3/24", "1.2.3.4.5", "1..3.4", ".1.2.3", "1.2.3.", "256.0.0.0/8"],
    ...["1.2.3.4/31x", "1.2.3.4/ 32", "10.0.0.1/8", "128.0.0.0/0", "", "/", "/0", "0.0.0.0/-1"],
  ])("%p is none", (text) => {
    expect(parseCidr(text).ok).toBe(false);
  });

  test("have the bytes and the prefix that they are written with", () => {
    for (let prefix = 0; prefix <= 32; prefix++) {
      const address = { family: 4, bytes: Uint8Array.of(255, 254, 0, 129) } as const;
      const network = networkOf(address, prefix);
      const text = `${network.bytes.join(".")}/${prefix}`;
      expect(parseCidr(text)).toEqual({ ok: true, value: network });
    }
    expect(parseCidr("0.0.0.0")).toMatchObject({ value: { prefix: 32 } });
  });
});

describe("cidrContains", () => {
  /** The slow truth: the first bits compared one by one. */
  function bits(bytes: Uint8Array): string {
    return Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
  }

  test("compares the bits of the prefix", () => {
    fc.assert(
      fc.property(network, address, fc.nat(), (outer, other, n) => {
        const inner = { ...other, bytes: other.bytes.slice() };
        if (inner.family === outer.family) {
          // Share a random number of leading bytes, or random addresses would almost never match.
          const shared = n % (inner.bytes.length + 1);
          inner.bytes.set(outer.bytes.subarray(0, shared));
        }
        const expected =
          inner.family === outer.family &&
          bits(inner.bytes).startsWith(bits(outer.bytes).slice(0, outer.prefix));
        expect(cidrContains(outer, inner)).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  test("a network lies in a wider one, not in a narrower one", () => {
    expect(cidrContains(parsed("10.0.0.0/8"), parsed("10.1.0.0/16"))).toBe(true);
    expect(cidrContains(parsed("10.1.0.0/16"), parsed("10.0.0.0/8"))).toBe(false);
    expect(cidrContains(parsed("10.1.0.0/16"), parsed("10.1.0.0/16"))).toBe(true);
    expect(cidrContains(parsed("0.0.0.0/0"), parsed("::/0"))).toBe(false);
  });
});
