import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AF_INET } from "../../../ffi/constants.ts";
import {
  applyChange,
  type ForwardTask,
  ownTask,
  type ServedSocket,
  type SessionSettings,
} from "../../../src/workers/protocol.ts";
import { type Capacity, capacityOf, taskChange } from "../../../src/workers/task-change.ts";
import { forwardTask } from "../../helpers/forward-task.ts";

const socket = (fd: number, protocol: "tcp" | "udp"): ServedSocket => ({
  ...{ fd, protocol, domain: AF_INET, address: Uint8Array.of(127, 0, 0, 1), port: fd },
});
const both = [socket(10, "tcp"), socket(11, "udp")];
/** The board and the table of flows are the process's, and so are the same in all tasks. */
const base = forwardTask(both, 80);
const sessionsOf = ({ sessions }: ForwardTask) => sessions as SessionSettings;

/** Settings that may differ between two tasks of a service, as they reach a Worker. */
interface Varied {
  readonly protocols: readonly ("tcp" | "udp")[];
  readonly connectionsMax: number;
  readonly sessionsMax: number;
  readonly perClient: number;
  readonly sessionsPerClient: number;
  readonly isOriginal: boolean;
  readonly fallback: boolean;
  readonly sendProxy: "v1" | "v2" | undefined;
  readonly idleMs: number;
  readonly level: number;
  readonly mark: number | undefined;
}

function taskOf(varied: Varied): ForwardTask {
  const sessions = sessionsOf(base);
  // Each configuration makes the memory of its clients' counts anew.
  const clients = (max: number) => ({
    ...{ max, counts: new SharedArrayBuffer(8), perSecond: 0, workers: 1, worker: 0 },
  });
  return {
    ...base,
    sockets: both.filter(({ protocol }) => varied.protocols.includes(protocol)),
    route: {
      ...base.route,
      upstreams: varied.isOriginal ? { kind: "original" } : base.route.upstreams,
      sourceFallback: varied.fallback,
    },
    dial: { ...base.dial, sendProxy: varied.sendProxy, mark: varied.mark as never },
    limits: {
      ...base.limits,
      connectionsMax: varied.connectionsMax,
      clients: clients(varied.perClient),
    },
    timeouts: { ...base.timeouts, idleMs: varied.idleMs },
    log: { ...base.log, level: varied.level },
    sessions: varied.protocols.includes("udp")
      ? {
          ...sessions,
          sessionsMax: varied.sessionsMax,
          clients: clients(varied.sessionsPerClient),
        }
      : undefined,
  };
}

const varied: fc.Arbitrary<Varied> = fc.record({
  protocols: fc.subarray(["tcp" as const, "udp" as const], { minLength: 1 }),
  connectionsMax: fc.constantFrom(100, 100, 50, 200),
  sessionsMax: fc.constantFrom(100, 100, 50, 200),
  perClient: fc.constantFrom(0, 0, 0, 5),
  sessionsPerClient: fc.constantFrom(0, 0, 0, 5),
  isOriginal: fc.constantFrom(false, false, false, true),
  fallback: fc.constantFrom(false, false, false, true),
  sendProxy: fc.constantFrom(undefined, undefined, undefined, "v1" as const, "v2" as const),
  idleMs: fc.constantFrom(1_000, 2_000),
  level: fc.nat(3),
  mark: fc.constantFrom(undefined, 7),
});

/** Settings of how a connection, or a session, begins. */
const beginning = ["isOriginal", "fallback", "sendProxy"] as const;
const ofProtocol = { tcp: "perClient", udp: "sessionsPerClient" } as const;

describe("two tasks at random", () => {
  const runs = { numRuns: 1_000, seed: 13 };

  test("a part is made anew for how connections begin, and for more places of TCP alone", () => {
    fc.assert(
      fc.property(varied, varied, (a, b) => {
        const before = taskOf(a);
        const { replaced } = taskChange(before, taskOf(b), capacityOf(before));
        for (const protocol of ["tcp", "udp"] as const) {
          const settings = [...beginning, ofProtocol[protocol]];
          const isOther = settings.some((setting) => a[setting] !== b[setting]);
          // Of a protocol that had no socket there is no part.
          const isNew = !a.protocols.includes(protocol);
          const isMore = protocol === "tcp" && b.connectionsMax > a.connectionsMax;
          expect(replaced.includes(protocol)).toBe(
            b.protocols.includes(protocol) && (isOther || isMore || isNew),
          );
        }
      }),
      runs,
    );
  });

  test("a part that stays has all else of the new task, and no more places than before", () => {
    fc.assert(
      fc.property(varied, varied, (a, b) => {
        const [before, after] = [taskOf(a), taskOf(b)];
        const { change, task, replaced } = taskChange(before, after, capacityOf(before));
        const staying = ownTask(before);
        applyChange(staying, change);
        const { upstreams, pool, ownAddresses } = after.route;
        expect(staying.route).toMatchObject({ upstreams, pool, ownAddresses });
        expect(staying.dial.mark).toBe(after.dial.mark);
        expect(staying.timeouts).toEqual(after.timeouts);
        expect(staying.log).toEqual(after.log);
        expect(staying.limits.connectionsMax).toBe(after.limits.connectionsMax);
        expect(change.sockets).toEqual(after.sockets);
        // What the service goes on as is the new task, but for places and memory that stay.
        const { limits, sessions, ...rest } = task;
        const { limits: _, sessions: __, ...wanted } = after;
        expect(rest).toEqual(wanted);
        expect(limits.clients.max).toBe(b.perClient);
        if (a.perClient === b.perClient) expect(limits.clients).toBe(before.limits.clients);
        expect(sessions === undefined).toBe(!b.protocols.includes("udp"));
        if (sessions === undefined) return;
        const most = replaced.includes("udp") ? Number.POSITIVE_INFINITY : a.sessionsMax;
        expect(sessions.sessionsMax).toBe(Math.min(b.sessionsMax, most));
      }),
      runs,
    );
  });

  test("the same task again changes nothing, and the new one neither", () => {
    fc.assert(
      fc.property(varied, varied, (a, b) => {
        const before = taskOf(a);
        const again = taskChange(before, taskOf(a), capacityOf(before));
        expect(again.replaced).toEqual([]);
        expect(again.change.timeouts).toBeUndefined();
        expect(again.task).toEqual(before);
        const { task } = taskChange(before, taskOf(b), capacityOf(before));
        const last = taskChange(task, taskOf(b), capacityOf(task));
        expect(last.replaced).toEqual([]);
        expect(last.change.timeouts).toBeUndefined();
      }),
      runs,
    );
  });
});

test("a bound that was lowered rises to the places that there are without a new part", () => {
  const varied = (connectionsMax: number): Varied => ({
    ...{ protocols: ["tcp", "udp"], connectionsMax, sessionsMax: connectionsMax },
    ...{ perClient: 0, sessionsPerClient: 0, isOriginal: false, fallback: false },
    ...{ sendProxy: undefined, idleMs: 1_000, level: 1, mark: undefined },
  });
  const capacity: Capacity = capacityOf(taskOf(varied(100)));
  const lowered = taskChange(taskOf(varied(100)), taskOf(varied(50)), capacity);
  expect(lowered.replaced).toEqual([]);
  const raised = taskChange(lowered.task, taskOf(varied(100)), capacity);
  expect(raised.replaced).toEqual([]);
  expect(raised.task.sessions?.sessionsMax).toBe(100);
  const more = taskChange(raised.task, taskOf(varied(101)), capacity);
  expect(more.replaced).toEqual(["tcp"]);
  expect(more.task.sessions?.sessionsMax).toBe(100);
});

test("the capacity is that of the parts that are there, in whatever order changes come", () => {
  fc.assert(
    fc.property(fc.array(varied, { minLength: 2, maxLength: 8 }), ([first, ...others]) => {
      let task = taskOf(first as Varied);
      let capacity = capacityOf(task);
      // The places of the parts, as a Worker makes them (src/forward/services.ts).
      const made = { tcp: 0, udp: 0 };
      const make = (protocol: "tcp" | "udp", { limits, sessions }: ForwardTask) => {
        const connections = limits.connectionsMax + limits.queueMax;
        made[protocol] = protocol === "tcp" ? connections : (sessions?.sessionsMax ?? 0);
      };
      for (const { protocol } of task.sockets) make(protocol, task);
      for (const each of others) {
        const change = taskChange(task, taskOf(each), capacity);
        ({ task, capacity } = change);
        for (const protocol of ["tcp", "udp"] as const) {
          const isCarried = task.sockets.some((socket) => socket.protocol === protocol);
          if (!isCarried) made[protocol] = 0;
          else if (made[protocol] === 0 || change.replaced.includes(protocol)) make(protocol, task);
        }
        expect(capacity).toEqual({ connections: made.tcp, sessions: made.udp });
        const { connectionsMax, queueMax } = task.limits;
        if (made.tcp > 0) expect(connectionsMax + queueMax).toBeLessThanOrEqual(made.tcp);
        expect(task.sessions?.sessionsMax ?? 0).toBeLessThanOrEqual(made.udp);
      }
    }),
    { numRuns: 1_000, seed: 13 },
  );
});
