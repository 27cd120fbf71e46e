import { expect, test } from "bun:test";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import { Admission, type Applicant } from "../../../src/fairness/admission.ts";
import { ClientCounts } from "../../../src/fairness/client-counts.ts";
import { ClientLimits } from "../../../src/fairness/client-limits.ts";

class Connection implements Applicant {
  number = -1;
  lastActive = 0;
  readonly client: number;
  state: "open" | "waits" | "refused" | "ended" = "refused";

  constructor(client: number) {
    this.client = client;
  }
}

const address = (client: number): SocketAddress => ({
  address: Uint8Array.of(10, 0, client >> 8, client & 255),
  port: 1,
  scopeId: 0,
});

/** A service whose connections are what the test says of them. */
class World {
  readonly admission: Admission<Connection>;
  readonly all: Connection[] = [];
  now = 0;

  constructor(connectionsMax: number, queueMax: number, limits = {}) {
    const none = { max: 0, counts: undefined, perSecond: 0, workers: 1, worker: 0 };
    this.admission = new Admission(
      { connectionsMax, queueMax },
      new ClientLimits({ ...none, ...limits }),
      {
        proceed: (member) => {
          member.state = "open";
        },
        evict: (member) => this.leave(member),
      },
    );
  }

  arrive(client: number, peer = client): Connection {
    const connection = new Connection(client);
    connection.lastActive = ++this.now;
    this.all.push(connection);
    if (!this.admission.arrive(connection, address(peer))) return connection;
    const verdict = this.admission.admit(connection, address(client), this.now);
    if (verdict === "placed") connection.state = "open";
    else if (verdict === "waits") connection.state = "waits";
    else this.leave(connection);
    return connection;
  }

  leave(connection: Connection): void {
    connection.state = "ended";
    this.admission.left(connection);
  }

  of(client: number, state: Connection["state"] = "open"): number {
    return this.all.filter((each) => each.client === client && each.state === state).length;
  }
}

test("as long as there are places, one client may have them all", () => {
  const world = new World(100, 10);
  for (let i = 0; i < 100; i++) world.arrive(1);
  expect(world.of(1)).toBe(100);
});

test("when there are none, those of the client with the most wait, then are refused", () => {
  const world = new World(10, 3);
  for (let i = 0; i < 20; i++) world.arrive(1);
  expect([world.of(1), world.of(1, "waits"), world.of(1, "refused")]).toEqual([10, 3, 7]);
  // A place that is set free is for the one that has waited longest.
  world.leave(world.all[0] as Connection);
  expect(world.all[10]?.state).toBe("open");
  expect([world.of(1), world.of(1, "waits")]).toEqual([10, 2]);
});

test("a client that has less gets the place of the idlest one of the client with the most", () => {
  const world = new World(10, 3);
  for (let i = 0; i < 20; i++) world.arrive(1);
  (world.all[0] as Connection).lastActive = ++world.now;
  const other = world.arrive(2);
  expect(other.state).toBe("open");
  expect(world.all[0]?.state).toBe("open");
  expect(world.all[1]?.state).toBe("ended");
  // Until both have as many.
  for (let i = 0; i < 20; i++) world.arrive(2);
  expect([world.of(1), world.of(2)]).toEqual([5, 5]);
  expect(world.arrive(3).state).toBe("open");
});

test("many clients with one each: nobody ends for another", () => {
  const world = new World(10, 3);
  for (let client = 0; client < 30; client++) world.arrive(client);
  expect(world.all.filter(({ state }) => state === "open")).toHaveLength(10);
  expect(world.all.filter(({ state }) => state === "waits")).toHaveLength(3);
  expect(world.all.filter(({ state }) => state === "ended")).toHaveLength(0);
});

test("behind one peer the clients that headers name share, not the peer", () => {
  const world = new World(10, 3);
  for (let i = 0; i < 13; i++) world.arrive(1, 99);
  const other = world.arrive(2, 98);
  expect(other.state).toBe("open");
  expect([world.of(1), world.of(1, "waits")]).toEqual([9, 2]);
});

test("headers that never come take no place of others", () => {
  const world = new World(10, 10);
  const silent = Array.from({ length: 30 }, () => {
    const connection = new Connection(7);
    connection.state = world.admission.arrive(connection, address(7)) ? "waits" : "refused";
    return connection;
  });
  expect(silent.filter(({ state }) => state === "waits")).toHaveLength(20);
  for (let i = 0; i < 10; i++) expect(world.arrive(100 + i).state).toBe("open");
});

test("bounds that are set for each client: at once, and in a second", () => {
  const counts = ClientCounts.memory(1, () => 0x9e3779b1);
  const world = new World(100, 10, { max: 3, counts });
  for (let i = 0; i < 5; i++) world.arrive(1);
  expect(world.of(1)).toBe(3);
  expect(world.arrive(2).state).toBe("open");
  world.leave(world.all[0] as Connection);
  expect(world.arrive(1).state).toBe("open");
  const verdict = (limited: World) => {
    const connection = new Connection(1);
    limited.admission.arrive(connection, address(1));
    return limited.admission.admit(connection, address(1), 0);
  };
  expect(verdict(world)).toBe("client-limit");
  const fast = new World(100, 10, { perSecond: 2 });
  expect([verdict(fast), verdict(fast)]).toEqual(["placed", "placed"]);
  expect(verdict(fast)).toBe("client-rate");
});

test("above its share: the oldest of the client with the most, and of nobody who is alone", () => {
  const world = new World(10, 3);
  for (let i = 0; i < 9; i++) world.arrive(1);
  expect([...world.admission.aboveShare()]).toHaveLength(0);
  world.arrive(2);
  expect(world.admission.isNearlyFull).toBe(true);
  for (const connection of world.admission.aboveShare()) world.leave(connection);
  expect([world.of(1), world.of(2)]).toEqual([5, 1]);
});
