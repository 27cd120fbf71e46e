import { describe, expect, test } from "bun:test";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { SourceChoice, Upstreams } from "../../../src/engine/protocol.ts";
import { addressKey, choose, type Rules } from "../../../src/forward/route-choice.ts";

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
const asked = at("8.8.8.8", 80);
const backend = at("192.0.2.10", 8080);
const fixed = (...addresses: SocketAddress[]): Upstreams => ({ kind: "fixed", addresses });

function rules(changes: Partial<Rules> = {}): Rules {
  return {
    upstreams: fixed(backend),
    source: { kind: "client", keepPort: false },
    fallback: false,
    own: new Set([addressKey(at("192.0.2.1", 0).address)]),
    listenPorts: new Set([50_080]),
    ...changes,
  };
}

describe("where to", () => {
  test("upstreams take turns, and the original is the one that was asked for", () => {
    const other = at("192.0.2.11", 8080);
    const two = rules({ upstreams: fixed(backend, other) });
    const turns = [0, 1, 2, 3].map((turn) => choose(two, client, asked, turn));
    expect(turns.map((choice) => "upstream" in choice && choice.upstream)).toEqual([
      ...[backend, other],
      ...[backend, other],
    ]);
    const original = choose(rules({ upstreams: { kind: "original" } }), client, asked, 0);
    expect(original).toMatchObject({ upstream: asked });
  });

  test("never to this proxy itself, by whatever own address", () => {
    const loops: Upstreams[] = [
      fixed(at("192.0.2.1", 50_080)),
      fixed(at("127.0.0.1", 50_080)),
      fixed(at("127.3.2.1", 50_080)),
      fixed(at("0.0.0.0", 50_080)),
      fixed({ address: new Uint8Array(16), port: 50_080, scopeId: 0 }),
    ];
    for (const upstreams of loops) {
      expect(choose(rules({ upstreams }), client, asked, 0)).toHaveProperty("refusal");
    }
    const original = rules({ upstreams: { kind: "original" } });
    expect(choose(original, client, at("192.0.2.1", 50_080), 0)).toHaveProperty("refusal");
    expect(choose(original, client, at("192.0.2.1", 443), 0)).not.toHaveProperty("refusal");
    expect(choose(original, client, at("8.8.8.8", 50_080), 0)).not.toHaveProperty("refusal");
  });
});

describe("whose address", () => {
  const sourceOf = (source: SourceChoice, from = client) => {
    const choice = choose(rules({ source }), from, asked, 0);
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
      const choice = choose(rules(), local, asked, 0);
      expect(choice).toMatchObject({ source: undefined, unspoofed: expect.any(String) });
    }
  });

  test("across families: refused in words that say what to do, or from our own", () => {
    const refused = choose(rules(), v6(9, 1), asked, 0);
    expect(refused).toMatchObject({ refusal: expect.stringContaining("--source-fallback self") });
    const fallback = choose(rules({ fallback: true }), v6(9, 1), asked, 0);
    expect(fallback).toMatchObject({ source: undefined, unspoofed: expect.any(String) });
    const own = rules({ source: { kind: "self" } });
    expect(choose(own, v6(9, 1), asked, 0)).not.toHaveProperty("refusal");
  });
});
