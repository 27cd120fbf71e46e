/** What holds for every parser of src/net, whatever is given to it. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatAddress, parseAddress } from "../../../src/net/address.ts";
import { formatCidr, parseCidr } from "../../../src/net/cidr.ts";
import { formatDuration, parseDuration } from "../../../src/net/duration.ts";
import { formatEndpoint, parseEndpoint } from "../../../src/net/endpoint.ts";
import { parseInterfaceName } from "../../../src/net/interface.ts";
import { formatMark, parseMark } from "../../../src/net/mark.ts";
import { formatPortRange, parsePort, parsePortRange } from "../../../src/net/port.ts";
import { type Parsed, quote } from "../../../src/net/result.ts";

/** A parser, followed by the formatter of its values. */
function through<T>(parse: (text: string) => Parsed<T>, format: (value: T) => string) {
  return (text: string): Parsed<string> => {
    const result = parse(text);
    return result.ok ? { ok: true, value: format(result.value) } : result;
  };
}

const parsers: Record<string, (text: string) => Parsed<string>> = {
  address: through((text) => parseAddress(text, { zone: true }), formatAddress),
  cidr: through(parseCidr, formatCidr),
  duration: through(parseDuration, formatDuration),
  endpoint: through((text) => parseEndpoint(text, { portZero: true }), formatEndpoint),
  interface: parseInterfaceName,
  mark: through(parseMark, formatMark),
  port: through(parsePort, String),
  range: through(parsePortRange, formatPortRange),
};

const valid = [
  "8.8.8.8",
  "::1",
  "10.0.0.0/8",
  "30s",
  "[::1]:80",
  "*:80",
  "eth0",
  "0x1/0x1",
  "80-90",
];
const junk = [
  "$(id)",
  "`id`",
  ";",
  "|",
  "&",
  "\n",
  "\r",
  "\0",
  "%",
  "'",
  '"',
  "\\",
  "{",
  "\u001b[2J",
];

const anything = fc.oneof(
  fc.string({ unit: "binary", maxLength: 100 }),
  fc.stringMatching(/^[0-9a-fx:.,/%*[\]-]{0,50}$/),
  fc
    .tuple(fc.constantFrom(...valid), fc.constantFrom(...junk), fc.nat(20))
    .map(([text, piece, at]) => text.slice(0, at) + piece + text.slice(at)),
);

describe.each(Object.entries(parsers))("every text given to %s", (_, parse) => {
  test("is either plain and canonical or refused in one line that quotes it", () => {
    fc.assert(
      fc.property(fc.oneof(fc.constantFrom(...valid), anything), (text) => {
        const result = parse(text);
        if (result.ok) {
          expect(result.value).toMatch(/^[A-Za-z0-9_.:/%*[\]-]+$/);
          expect(parse(result.value)).toEqual(result);
        } else {
          expect(result.error).toMatch(/^[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+$/u);
          expect(result.error).toStartWith(quote(text));
          expect(result.error).toMatch(/: .*(give|number)/);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("quote", () => {
  test("shows a text so that a terminal does nothing with it", () => {
    expect(quote('a"b\n\u001b[31m\u202e\u0085')).toBe('"a\\"b\\n\\u001b[31m\\u202e\\u0085"');
  });

  test("shortens", () => expect(quote("x".repeat(1000)).length).toBeLessThan(70));
});
