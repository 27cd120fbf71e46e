import { expect, test } from "bun:test";
import fc from "fast-check";
import { complete, type Service } from "../../../../src/config/service.ts";
import { placesOf, sessionPlacesOf } from "../../../../src/control/places.ts";
import { descriptorShares } from "../../../../src/control/server/descriptor-shares.ts";
import { protocolsOf } from "../../../../src/control/server/tasks.ts";

const runs = { numRuns: 1_000, seed: 13 };

/** The protocols of a service, and its bounds. */
interface Wanted {
  readonly protocols: readonly ("tcp" | "udp")[];
  readonly connections?: number | undefined;
  readonly sessions?: number | undefined;
}

function services(all: readonly Wanted[]): readonly Service[] {
  const service = all.map(({ protocols, connections, sessions }, i) => ({
    name: `s${i}`,
    listen: protocols.map((protocol) => ({
      ...{ protocol, address: undefined },
      ports: { from: 80 + i, to: 80 + i } as never,
    })),
    to: ["original" as const],
    ...(connections === undefined ? {} : { "max-connections": connections }),
    ...(sessions === undefined ? {} : { "max-sessions": sessions }),
  }));
  return complete({ service }).services;
}

const bound = fc.option(fc.integer({ min: 1, max: 100_000 }), { nil: undefined });
const wanted: fc.Arbitrary<Wanted> = fc.record({
  protocols: fc.uniqueArray(fc.constantFrom("tcp" as const, "udp" as const), { minLength: 1 }),
  connections: bound,
  sessions: bound,
});
const some = fc.array(wanted, { minLength: 1, maxLength: 12 });
const workers = fc.integer({ min: 1, max: 16 });

/** The shares of each protocol that a service carries, in their order. */
function parts(total: number, all: readonly Service[], count: number) {
  const shares = descriptorShares(total, all, count);
  return all.flatMap((service) =>
    protocolsOf(service).map((protocol) => ({
      ...{ service, protocol },
      share: shares.get(service)?.[protocol] as number,
      other: shares.get(service),
    })),
  );
}

test("shares are whole, never more than there is, and 0 of a protocol that is not carried", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), some, workers, (total, all, count) => {
      const given = parts(total, services(all), count);
      const sum = given.reduce((before, { share }) => before + share, 0);
      // Each has one at least.
      expect(sum).toBeLessThanOrEqual(Math.max(total, given.length));
      for (const { service, share, other } of given) {
        expect(Number.isSafeInteger(share) && share >= 1).toBe(true);
        const carried = protocolsOf(service);
        for (const each of ["tcp", "udp"] as const) {
          if (!carried.includes(each)) expect(other?.[each]).toBe(0);
        }
      }
    }),
    runs,
  );
});

test("each has an equal part at least, or what its bounds need; nothing is left over", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), some, workers, (total, all, count) => {
      const given = parts(total, services(all), count);
      // With more descriptors than anybody has, a share is all that the bounds can use.
      const most = parts(Number.MAX_SAFE_INTEGER, services(all), count);
      const equal = Math.floor(total / given.length);
      let isShort = false;
      for (const [i, { service, protocol, share }] of given.entries()) {
        const { maxConnections, maxSessions } = service.limits;
        const isBounded = (protocol === "tcp" ? maxConnections : maxSessions) !== undefined;
        const need = isBounded ? (most[i]?.share as number) : Number.POSITIVE_INFINITY;
        expect(share).toBeGreaterThanOrEqual(Math.max(1, Math.min(equal, need)));
        expect(share).toBeLessThanOrEqual(need);
        if (share < need) isShort = true;
      }
      const sum = given.reduce((before, { share }) => before + share, 0);
      if (isShort) expect(sum).toBeGreaterThanOrEqual(total - given.length);
    }),
    runs,
  );
});

test("with enough descriptors all that the bounds allow has a place", () => {
  fc.assert(
    fc.property(some, workers, (all, count) => {
      const plenty = services(all.map((each) => ({ connections: 100, sessions: 100, ...each })));
      for (const { service, protocol, other } of parts(100_000_000, plenty, count)) {
        const { limits } = service;
        const sharing = { limits, workers: count, descriptors: other as never };
        const places = Array.from({ length: count }, (_, worker) =>
          protocol === "tcp"
            ? placesOf(sharing, worker).connectionsMax
            : sessionPlacesOf(sharing, worker).sessionsMax,
        ).reduce((a, b) => a + b);
        const bounds = protocol === "tcp" ? limits.maxConnections : limits.maxSessions;
        if (bounds !== undefined) expect(places).toBeGreaterThanOrEqual(bounds);
      }
    }),
    runs,
  );
});

test("an example: the small ones have all they need, and the others part the rest", () => {
  const all = services([
    { protocols: ["tcp"] },
    { protocols: ["udp"], sessions: 10 },
    { protocols: ["tcp", "udp"] },
  ]);
  const shares = all.map((each) => descriptorShares(1_022, all, 1).get(each));
  expect(shares).toEqual([
    { tcp: 333, udp: 0 },
    { tcp: 0, udp: 22 },
    { tcp: 333, udp: 334 },
  ]);
});
