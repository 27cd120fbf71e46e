import { describe, expect, test } from "bun:test";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { SourceChoice } from "../../../src/config/syntax.ts";
import {
  addressKey,
  dialFor,
  type SourcePolicy,
  upstreamFamily,
} from "../../../src/forward/dial.ts";

const at = (text: string, port: number): SocketAddress => ({
  address: Uint8Array.from(text.split(".").map(Number)),
  port,
  scopeId: 0,
});
const v6 = (last: number, port: number): SocketAddress => ({
  address: Uint8Array.from([0x20, 1, ...Array(13).fill(0), last]),
  port,
  scopeId: 0,
});

const client = at("198.51.100.7", 40_000);
const backend = at("192.0.2.10", 8080);

function rules(changes: Partial<SourcePolicy> = {}): SourcePolicy {
  return {
    source: { kind: "client", keepPort: false },
    fallback: false,
    own: new Set([addressKey(at("192.0.2.1", 0).address)]),
    listeners: [{ address: at("0.0.0.0", 0).address, port: 50_080 }],
    ...changes,
  };
}

describe("--source ADDR", () => {
  const source = { kind: "address", address: at("198.51.100.1", 0).address } as const;

  test("is bound towards upstreams of its family, and towards others it is a refusal", () => {
    expect(dialFor(rules({ source }), client, backend)).toMatchObject({
      source: { address: source.address, port: 0 },
    });
    expect(dialFor(rules({ source }), client, v6(1, 80))).toEqual({
      refusal: expect.stringContaining("an IPv4 source cannot be used towards an IPv6 upstream"),
    });
    const own = dialFor(rules({ source, fallback: true }), client, v6(1, 80));
    expect(own).toMatchObject({ source: undefined, unspoofed: expect.any(String) });
  });
});

describe("where to", () => {
  test("never to this proxy itself, by whatever own address", () => {
    for (const own of ["192.0.2.1", "127.0.0.1", "127.3.2.1", "0.0.0.0"]) {
      expect(dialFor(rules(), client, at(own, 50_080))).toHaveProperty("refusal");
    }
    const everywhere = { address: new Uint8Array(16), port: 50_080, scopeId: 0 };
    expect(dialFor(rules(), client, everywhere)).toHaveProperty("refusal");
    expect(dialFor(rules(), client, at("192.0.2.1", 443))).not.toHaveProperty("refusal");
    expect(dialFor(rules(), client, at("8.8.8.8", 50_080))).not.toHaveProperty("refusal");
  });

  test("another program's port beside a listener at one address is not the listener's", () => {
    const one = rules({ listeners: [at("192.0.2.1", 80)] });
    expect(dialFor(one, client, at("192.0.2.1", 80))).toHaveProperty("refusal");
    for (const [other, port] of [
      ["127.0.0.1", 80],
      ["192.0.2.1", 81],
    ] as const) {
      expect(dialFor(one, client, at(other, port))).not.toHaveProperty("refusal");
    }
    const v4 = rules({
      listeners: [at("0.0.0.0", 80)],
      own: new Set([addressKey(v6(1, 0).address)]),
    });
    expect(dialFor({ ...v4, source: { kind: "self" } }, client, v6(1, 80))).toMatchObject({
      upstream: v6(1, 80),
    });
    const both = { ...v4, listeners: [{ address: new Uint8Array(16), port: 80 }] };
    expect(dialFor(both, client, v6(1, 80))).toHaveProperty("refusal");
    expect(dialFor(both, client, at("127.0.0.1", 80))).toHaveProperty("refusal");
  });

  test("of the client's family where its address is to be used", () => {
    expect(upstreamFamily(rules(), client)).toBe(4);
    expect(upstreamFamily(rules(), v6(9, 1))).toBe(16);
    expect(upstreamFamily(rules({ source: { kind: "self" } }), client)).toBe(0);
    const source = { kind: "address", address: v6(1, 0).address } as const;
    expect(upstreamFamily(rules({ source }), client)).toBe(16);
  });
});

describe("whose address", () => {
  const sourceOf = (source: SourceChoice, from = client) => {
    const choice = dialFor(rules({ source }), from, backend);
    return "source" in choice ? choice.source : "refused";
  };

  test("the client's, with or without its port; ours; another", () => {
    const { address } = client;
    expect(sourceOf({ kind: "client", keepPort: false })).toEqual({ address, port: 0 });
    expect(sourceOf({ kind: "client", keepPort: true })).toEqual({ address, port: 40_000 });
    expect(sourceOf({ kind: "self" })).toBeUndefined();
    const other = at("203.0.113.5", 0).address;
    expect(sourceOf({ kind: "address", address: other })).toEqual({ address: other, port: 0 });
  });

  test("a client on this host, and one with the upstream's address, is not spoofed", () => {
    for (const local of [at("127.0.0.1", 1), at("192.0.2.1", 1), { ...backend, port: 1 }]) {
      const choice = dialFor(rules(), local, backend);
      expect(choice).toMatchObject({ source: undefined, unspoofed: expect.any(String) });
    }
  });

  test("across families: refused in words that say what to do, or from our own", () => {
    const refused = dialFor(rules(), v6(9, 1), backend);
    expect(refused).toMatchObject({ refusal: expect.stringContaining('"source-fallback self"') });
    const fallback = dialFor(rules({ fallback: true }), v6(9, 1), backend);
    expect(fallback).toMatchObject({ source: undefined, unspoofed: expect.any(String) });
    const own = rules({ source: { kind: "self" } });
    expect(dialFor(own, v6(9, 1), backend)).not.toHaveProperty("refusal");
  });

  test("link-local: on that link alone", () => {
    const local = { ...v6(9, 1), scopeId: 3 };
    const refused = dialFor(rules(), local, v6(8, 53));
    expect(refused).toMatchObject({ refusal: expect.stringContaining("link-local") });
    const beside = { ...v6(8, 53), scopeId: 3 };
    expect(dialFor(rules(), local, beside)).toMatchObject({ source: { address: local.address } });
  });
});
