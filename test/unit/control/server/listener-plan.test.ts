import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Fd, Port } from "../../../../ffi/types.ts";
import type { Listener } from "../../../../src/config/service.ts";
import { bindAddress } from "../../../../src/control/endpoints.ts";
import type { OpenSocket } from "../../../../src/control/listeners.ts";
import {
  type ListeningService,
  planListeners,
} from "../../../../src/control/server/listener-plan.ts";
import { formatSocketAddress } from "../../../../src/net/socket-address.ts";

interface Named {
  readonly name: string;
  readonly listen: readonly Listener[];
}

const any4 = { family: 4 as const, bytes: new Uint8Array(4) };
const loopback = { family: 4 as const, bytes: Uint8Array.of(127, 0, 0, 1) };
const any6 = { family: 6 as const, bytes: new Uint8Array(16) };

const at = (port: number, protocol: "tcp" | "udp" = "tcp", address?: typeof any4): Listener => ({
  ...{ protocol, endpoint: { address, port: port as Port } },
});
/** What a socket is bound to. */
const place = ({ protocol, endpoint }: Listener) =>
  `${protocol} ${formatSocketAddress(bindAddress(endpoint))}`;

/** Services that run, each with a socket for each listener and Worker, numbered from 100. */
function run(services: readonly Named[], workers: number): ListeningService[] {
  let fd = 100;
  return services.map((service) => ({
    service,
    sets: Array.from({ length: workers }, () =>
      service.listen.map(({ protocol, endpoint }): OpenSocket => {
        return { fd: fd++ as Fd, protocol, local: bindAddress(endpoint) };
      }),
    ),
  }));
}

const listener: fc.Arbitrary<Listener> = fc.record({
  protocol: fc.constantFrom("tcp" as const, "udp" as const),
  endpoint: fc.record({
    address: fc.constantFrom(undefined, any4, loopback, any6 as never),
    port: fc.constantFrom(0, 80, 81, 82) as fc.Arbitrary<never>,
  }),
});

/** Services of which no two want one socket, as a configuration is checked. */
const services: fc.Arbitrary<Named[]> = fc
  .tuple(
    fc.uniqueArray(fc.constantFrom("a", "b", "c", "d"), { minLength: 1 }),
    fc.array(fc.tuple(listener, fc.nat(3)), { maxLength: 12 }),
  )
  .map(([names, listeners]) => {
    const taken = new Set<string>();
    const free = listeners.filter(([each]) => {
      const isTaken = each.endpoint.port !== 0 && taken.has(place(each));
      taken.add(place(each));
      return !isTaken;
    });
    return names.map((name, i) => ({
      name,
      listen: free.filter(([, owner]) => owner % names.length === i).map(([each]) => each),
    }));
  });

test("every socket stays, moves or is closed, one of them; and only what is wanted stays", () => {
  fc.assert(
    fc.property(services, services, fc.integer({ min: 1, max: 3 }), (before, next, workers) => {
      const running = run(before, workers);
      const { wanted, released } = planListeners(running, next);
      expect(wanted.map(({ service }) => service)).toEqual(next);
      const keeper = new Map<number, string>();
      for (const { service, kept } of wanted) {
        expect(kept.length).toBe(service.listen.length);
        for (const [i, sockets] of kept.entries()) {
          const asked = service.listen[i] as Listener;
          if (sockets === undefined) {
            // Then nobody has it: of port 0 the kernel's choice is another one each time.
            const others = before.flatMap(({ listen }) => listen).map(place);
            if (asked.endpoint.port !== 0) expect(others).not.toContain(place(asked));
            continue;
          }
          // One for each Worker, at the same address.
          expect(sockets.length).toBe(workers);
          for (const { fd, protocol, local } of sockets) {
            expect(`${protocol} ${formatSocketAddress(local)}`).toBe(place(asked));
            expect(keeper.has(fd)).toBe(false);
            keeper.set(fd, service.name);
          }
        }
      }
      expect([...released.keys()]).toEqual(before.map(({ name }) => name));
      for (const { service, sets } of running) {
        const lists = released.get(service.name) ?? [];
        expect(lists.length).toBe(workers);
        for (const [worker, set] of sets.entries()) {
          const { closed = [], moved = [] } = lists[worker] ?? {};
          expect(new Set([...closed, ...moved]).size).toBe(closed.length + moved.length);
          for (const { fd } of set) {
            const now = keeper.get(fd);
            expect(closed.includes(fd)).toBe(now === undefined);
            expect(moved.includes(fd)).toBe(now !== undefined && now !== service.name);
          }
          const own = set.map(({ fd }): number => fd);
          for (const fd of [...closed, ...moved]) expect(own).toContain(fd);
        }
      }
    }),
    { numRuns: 1_000, seed: 13 },
  );
});

describe("examples", () => {
  const released = (before: Named[], next: Named[]) =>
    Object.fromEntries(planListeners(run(before, 1), next).released);

  test("one that is renamed, or two that exchange their ports, move their sockets", () => {
    const [web, dns] = [at(80), at(53, "udp")];
    expect(released([{ name: "web", listen: [web] }], [{ name: "www", listen: [web] }])).toEqual({
      web: [{ closed: [], moved: [100] }],
    });
    const before = [
      { name: "a", listen: [web] },
      { name: "b", listen: [dns] },
    ];
    const next = [
      { name: "a", listen: [dns] },
      { name: "b", listen: [web] },
    ];
    expect(released(before, next)).toEqual({
      a: [{ closed: [], moved: [100] }],
      b: [{ closed: [], moved: [101] }],
    });
  });

  test("the order of listeners makes no difference, nor 0.0.0.0 written out", () => {
    const before = [{ name: "web", listen: [at(80), at(81)] }];
    const next = [{ name: "web", listen: [at(81), at(80, "tcp", any4)] }];
    expect(released(before, next)).toEqual({ web: [{ closed: [], moved: [] }] });
  });

  test("a port of the kernel's choice stays where its service does, and is nobody else's", () => {
    const before = [{ name: "web", listen: [at(0)] }];
    expect(released(before, before)).toEqual({ web: [{ closed: [], moved: [] }] });
    expect(released(before, [{ name: "www", listen: [at(0)] }])).toEqual({
      web: [{ closed: [100], moved: [] }],
    });
  });
});
