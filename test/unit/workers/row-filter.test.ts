import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatCidr } from "../../../src/net/cidr.ts";
import {
  type FilteredRow,
  type FilterPart,
  filterParts,
  isEmptyFilter,
  matches,
  parseFilterPart,
  type RowFilter,
} from "../../../src/workers/row-filter.ts";

const v4 = (last: number, port: number) => ({
  address: Uint8Array.of(192, 0, 2, last),
  port,
  scopeId: 0,
});
const v6 = (last: number, port: number) => ({
  address: Uint8Array.from([0x20, 1, 0xd, 0xb8, ...Array(11).fill(0), last]),
  port,
  scopeId: 0,
});
const endpoint = fc.oneof(
  fc.tuple(fc.nat(255), fc.nat(65535)).map(([last, port]) => v4(last, port)),
  fc.tuple(fc.nat(255), fc.nat(65535)).map(([last, port]) => v6(last, port)),
);
const row: fc.Arbitrary<FilteredRow> = fc.record({
  client: endpoint,
  original: endpoint,
  upstream: fc.option(endpoint, { nil: undefined }),
  phase: fc.constantFrom("header", "relaying", "confirmed"),
  startedAt: fc.nat(1000),
  lastActive: fc.nat(1000),
});
const names = { service: "web", pool: "servers" };

function read(parts: Partial<Record<FilterPart, string>>): RowFilter {
  const filter: Record<string, unknown> = {};
  for (const [part, text] of Object.entries(parts)) {
    const parsed = parseFilterPart(part as FilterPart, text);
    if (!parsed.ok) throw new Error(parsed.error);
    filter[part] = parsed.value;
  }
  return filter;
}

test("an empty filter matches everything, and all parts of one have to hold", () => {
  const holds: Record<FilterPart, string> = {
    service: "web",
    pool: "servers",
    upstream: "192.0.2.9:80",
    client: "192.0.2.0/24",
    original: "[2001:db8::/32]:443",
    state: "relaying",
    older: "100ms",
    idle: "50ms",
  };
  const fails: Record<FilterPart, string> = {
    service: "wed",
    pool: "server",
    upstream: "192.0.2.9:81",
    client: "2001:db8::/32",
    original: "[2001:db8::/32]:80",
    state: "half-closed",
    older: "101ms",
    idle: "51ms",
  };
  const one: FilteredRow = {
    client: v4(7, 40000),
    original: v6(1, 443),
    upstream: v4(9, 80),
    phase: "relaying",
    startedAt: 900,
    lastActive: 950,
  };
  expect(filterParts.toSorted()).toEqual(Object.keys(holds).toSorted() as FilterPart[]);
  fc.assert(
    fc.property(fc.subarray([...filterParts]), fc.subarray([...filterParts]), (given, wrong) => {
      const parts = Object.fromEntries(
        given.map((part) => [part, (wrong.includes(part) ? fails : holds)[part]]),
      );
      const filter = read(parts);
      expect(isEmptyFilter(filter)).toBe(given.length === 0);
      const isWrong = given.some((part) => wrong.includes(part));
      expect(matches(filter, one, names, 1000)).toBe(!isWrong);
    }),
  );
});

test("networks and ports match the addresses that they contain, and no others", () => {
  fc.assert(
    fc.property(row, fc.nat(255), fc.integer({ min: 24, max: 32 }), (one, last, prefix) => {
      const mask = 256 - 2 ** (32 - prefix);
      const text = `192.0.2.${last & mask}/${prefix}`;
      const { address, port } = one.original;
      const isInside = address.length === 4 && ((address[3] as number) & mask) === (last & mask);
      expect(matches(read({ original: text }), one, names, 0)).toBe(isInside);
      if (port === 0) return;
      expect(matches(read({ original: `${text}:${port}` }), one, names, 0)).toBe(isInside);
      expect(matches(read({ original: `:${port}` }), one, names, 0)).toBe(true);
      expect(matches(read({ original: `:${(port % 65535) + 1}` }), one, names, 0)).toBe(false);
    }),
  );
  const plain = read({ client: "2001:db8::/32", original: "[2001:db8::5]" });
  expect(plain.client && formatCidr(plain.client)).toBe("2001:db8::/32");
  expect(plain.original?.network && formatCidr(plain.original.network)).toBe("2001:db8::5");
});

test("any text is a value or one line that quotes it", () => {
  fc.assert(
    fc.property(fc.constantFrom(...filterParts), fc.string(), (part, text) => {
      const parsed = parseFilterPart(part, text);
      if (!parsed.ok) expect(parsed.error).toMatch(/^".*"/);
    }),
  );
  for (const [part, text] of [
    ["state", "open"],
    ["client", "192.0.2.1/8"],
    ["client", "web.example"],
    ["original", "192.0.2.1:0"],
    ["original", "*:80"],
    ["original", "2001:db8::1:80:"],
    ["older", "5"],
    ["service", ""],
  ] as const) {
    expect(parseFilterPart(part, text)).toMatchObject({ ok: false });
  }
});
