import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Port } from "../../../ffi/types.ts";
import {
  type Endpoint,
  formatEndpoint,
  formatUrl,
  parseEndpoint,
} from "../../../src/net/endpoint.ts";

function parsed(text: string, options = {}): Endpoint {
  const result = parseEndpoint(text, options);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function error(text: string, options = {}): string {
  const result = parseEndpoint(text, options);
  return result.ok ? "" : result.error;
}

describe("parseEndpoint", () => {
  const accepted: [text: string, url: string][] = [
    ["8.8.8.8:8080", "tcp://8.8.8.8:8080"],
    ["[2001:db8:0::9]:8080", "tcp://[2001:db8::9]:8080"],
    ["[fe80::1%eth0]:80", "tcp://[fe80::1%eth0]:80"],
    [":8080", "tcp://*:8080"],
    ["*:80", "tcp://*:80"],
    ["[::]:80", "tcp://[::]:80"],
  ];
  test.each(accepted)("%s is %s", (text, url) => expect(formatUrl("tcp", parsed(text))).toBe(url));

  test("takes port 0 when asked", () => {
    expect(parsed("1.2.3.4:0", { portZero: true }).port).toBe(0 as Port);
    expect(error("1.2.3.4:0")).toContain('"0" is not a port: give a number from 1 to 65535');
  });

  test("takes no missing address when one is required", () => {
    for (const text of [":80", "*:80"]) expect(error(text, { addressRequired: true })).not.toBe("");
  });

  test("says what is missing", () => {
    expect(error("8.8.8.8")).toBe('"8.8.8.8" has no port: give ADDRESS:PORT, "8.8.8.8:8080"');
    expect(error("2001:db8::9")).toContain('give ADDRESS:PORT, "[2001:db8::9]:8080"');
    expect(error("example.com:80")).toContain('"example.com:80" is not ADDRESS:PORT');
    expect(error("1.2.3.4:http")).toContain('"http" is not a port');
  });

  test("refuses", () => {
    for (const text of [
      ...["", ":", "::", "80", "[]:80", "[1.2.3.4]:80", "[::1]", "[::1]80", "[::1]:", "::1:80:"],
      ...["[[::1]]:80", "1.2.3.4:80 ", "1.2.3.4:80\n", "1:80", "**:80", "[*]:80", "[::1%]:80"],
    ]) {
      expect(parseEndpoint(text).ok).toBe(false);
    }
  });

  test("reads back what formatEndpoint writes", () => {
    const address = fc.oneof(
      fc.constant(undefined),
      fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => ({ family: 4 as const, bytes })),
      fc
        .tuple(
          fc.uint8Array({ minLength: 16, maxLength: 16 }),
          fc.constantFrom({}, { zone: "eth0" }),
        )
        .map(([bytes, zone]) => ({ family: 6 as const, bytes, ...zone })),
    );
    fc.assert(
      fc.property(address, fc.integer({ min: 0, max: 65535 }), (at, port) => {
        const endpoint: Endpoint = { address: at, port: port as Port };
        expect(parsed(formatEndpoint(endpoint), { portZero: true })).toEqual(endpoint);
      }),
    );
  });
});
