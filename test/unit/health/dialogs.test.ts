import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { ProbeSettings } from "../../../src/config/pool.ts";
import { dialogOf } from "../../../src/health/dialogs.ts";

const random = () => Uint8Array.from({ length: 96 }, (_, i) => i);
const bytes = (text: string) => new TextEncoder().encode(text);
const http: ProbeSettings = {
  ...{ type: "http", host: "", path: "/health?x=1" },
  status: [
    { from: 200, to: 299 },
    { from: 404, to: 404 },
  ],
};
const dialog = (probe: ProbeSettings, host = "web.example") => dialogOf(probe, host, random);

describe("http", () => {
  test("asks for the path, of the host", () => {
    const text = new TextDecoder().decode(dialog(http).request);
    expect(text).toStartWith("GET /health?x=1 HTTP/1.1\r\nHost: web.example\r\n");
    expect(text).toEndWith("Connection: close\r\n\r\n");
    const own = dialog({ ...http, host: "other.example:8080" }).request;
    expect(new TextDecoder().decode(own)).toContain("\r\nHost: other.example:8080\r\n");
  });

  test.each([
    ["HTTP/1.1 200 OK\r\n", ""],
    ["HTTP/1.0 204\r\n", ""],
    ["HTTP/1.1 404 Not Found\r\n", ""],
    ["HTTP/1.1 503 Service Unavailable\r\n", "status 503"],
    ["HTTP/1.1 301 ", "status 301"],
    ["HTTP/1.1 20", undefined],
    ["H", undefined],
    ["", undefined],
    ["HTTP/2 200 OK\r\n\r\n", "no HTTP"],
    ["SSH-2.0-x\r\n", "no HTTP"],
    ["HTTP/1.1 2000 x", "no HTTP"],
    ["HTTP/1.1 999 xx", "no HTTP"],
  ])("%j: %j", (answer, verdict) => {
    expect(dialog(http).read(bytes(answer))).toBe(verdict as string);
  });
});

test("udp: the answer has what is expected, or anything", () => {
  const probe: ProbeSettings = { type: "udp", send: bytes("ping"), expect: bytes("ng") };
  const { request, read } = dialog(probe);
  expect(request).toEqual(bytes("ping"));
  expect([read(bytes("pong!")), read(bytes("p"))]).toEqual(["", "another answer than expected"]);
  expect(dialog({ ...probe, expect: undefined }).read(new Uint8Array(0))).toBe("");
});

describe("tls", () => {
  const probe: ProbeSettings = { type: "tls", host: "" };
  const { read } = dialog(probe);

  test("names the host, and no address", () => {
    const has = (host: string) => Buffer.from(dialog(probe, host).request).includes(host);
    expect([has("web.example"), has("192.0.2.1"), has("[2001:db8::1]")]).toEqual([
      true,
      false,
      false,
    ]);
    expect(
      Buffer.from(dialog({ ...probe, host: "b.example" }).request).includes("b.ex"),
    ).toBeTrue();
  });

  test("a ServerHello is an answer, an alert says why not, other bytes are no TLS", () => {
    expect(read(Uint8Array.of(22, 3, 3, 0, 80, 2))).toBe("");
    expect(read(Uint8Array.of(22, 3, 3, 0, 80))).toBeUndefined();
    expect(read(Uint8Array.of(21, 3, 3, 0, 2, 2, 112))).toBe("TLS alert 112");
    expect(read(Uint8Array.of(21, 3, 3, 0, 2, 2))).toBeUndefined();
    expect(read(bytes("HTTP/1.1 400"))).toBe("no TLS");
    expect(read(new Uint8Array(0))).toBeUndefined();
  });
});

test("whatever comes, in whatever pieces, has one verdict or none", () => {
  const probes: ProbeSettings[] = [http, { type: "tls", host: "" }];
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.constantFrom(...probes), (answer, probe) => {
      const { read } = dialog(probe);
      let verdict: string | undefined;
      for (let length = 0; length <= answer.length; length++) {
        const next = read(answer.subarray(0, length));
        if (verdict !== undefined) expect(next).toBe(verdict);
        verdict = next;
      }
    }),
  );
});
