import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  formatSchemedEndpoint,
  formatTarget,
  parsePortless,
  parseSchemedEndpoint,
  parseTarget,
} from "../../../src/net/target.ts";

describe("parseTarget", () => {
  test("addresses, names and schemes", () => {
    expect(parseTarget("192.0.2.1:80")).toMatchObject({ ok: true, value: { scheme: undefined } });
    expect(parseTarget("tcp://[2001:db8::9]:80")).toMatchObject({
      value: { scheme: "tcp", port: 80 },
    });
    expect(parseTarget("udp://example.com:53")).toMatchObject({
      value: { scheme: "udp", host: "example.com", port: 53 },
    });
  });

  test.each([
    "",
    ":80",
    "*:80",
    "example.com",
    "example.com:0",
    "example.com:99999",
    "exa mple.com:80",
    "-x.com:80",
    "1.2.3:80",
    "http://example.com:80",
    "a..b:80",
    `${"a".repeat(64)}.com:80`,
    "2001:db8::9:80",
  ])("refuses %p and quotes it", (text) => {
    const result = parseTarget(text);
    expect(result.ok).toBe(false);
    if (!result.ok) expect(result.error).toContain(JSON.stringify(text).slice(1, 20));
  });

  test("what it formats it reads back; garbage never throws", () => {
    fc.assert(
      fc.property(fc.domain(), fc.integer({ min: 1, max: 65535 }), (name, port) => {
        const parsed = parseTarget(`${name}:${port}`);
        if (parsed.ok) expect(formatTarget(parsed.value)).toBe(`${name}:${port}`);
      }),
    );
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => void parseTarget(text)));
  });
});

describe("a host without a port", () => {
  test.each([
    ["192.0.2.1", "192.0.2.1"],
    ["2001:db8::9", "2001:db8::9"],
    ["[2001:db8::9]", "2001:db8::9"],
    ["udp://web.example", "web.example"],
  ])("%p stands for the port of the original destination", (text, formatted) => {
    const target = parsePortless(text);
    expect(target?.port).toBe(0 as never);
    expect(target && formatTarget(target)).toBe(formatted);
  });

  test.each(["web", "orignal", "8080", "1.2.3", "[192.0.2.1]", "a b.c", "", "web.example:"])(
    "%p is none",
    (text) => expect(parsePortless(text)).toBeUndefined(),
  );
});

test("an endpoint with a scheme reads back as it was", () => {
  for (const text of ["tcp://8.8.8.8:80", "udp://[2001:db8::9]:53", "8.8.8.8:80", "tcp://*:80"]) {
    const parsed = parseSchemedEndpoint(text);
    expect(parsed.ok && formatSchemedEndpoint(parsed.value)).toBe(text);
  }
  expect(parseSchemedEndpoint("sctp://8.8.8.8:80").ok).toBe(false);
});
