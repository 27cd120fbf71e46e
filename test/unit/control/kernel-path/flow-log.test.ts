/** The log of the kernel path: what is logged at which level, counted, and lost. */

import { describe, expect, test } from "bun:test";
import { EINVAL } from "../../../../ffi/errno.ts";
import type { ConntrackEntry } from "../../../../ffi/netlink/conntrack.ts";
import * as c from "../../../../ffi/netlink/conntrack-constants.ts";
import {
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
} from "../../../../ffi/netlink/conntrack-constants.ts";
import { NetlinkError } from "../../../../ffi/netlink/socket.ts";
import type { Message, ReceivedMessage } from "../../../../ffi/netlink/wire.ts";
import type { Mark } from "../../../../ffi/types.ts";
import { FlowLog, type WantedLines } from "../../../../src/control/kernel-path/flow-log.ts";
import {
  deleteFlows,
  type FlowChannel,
  readFlows,
} from "../../../../src/control/kernel-path/flows.ts";
import { Counter } from "../../../../src/workers/counters.ts";
import { ended } from "../../../../src/workers/end-reason.ts";
import { type ConnectionEvent, LogLevel } from "../../../../src/workers/protocol.ts";
import { UpstreamCounter } from "../../../../src/workers/upstream-board.ts";
import { entryBody } from "../../../helpers/conntrack.ts";
import { readTallies } from "../../../helpers/tally.ts";
import { owner, session, startedAt, stream } from "./flows.ts";

const done = stream(c.TCP_CONNTRACK_TIME_WAIT);
const reset = stream(c.TCP_CONNTRACK_CLOSE, { id: 78 });
const foreign = stream(c.TCP_CONNTRACK_TIME_WAIT, { id: 79, mark: 0x0200_0000 });

/** A kernel that tells of events and lists entries. */
class FakeKernel {
  messages: ReceivedMessage[] = [];
  entries: ConntrackEntry[] = [];
  readonly dumps: Message[] = [];
  /** By group, how many events each listener has lost. */
  readonly listeners = new Map<number, { lost: number }>();
  filters = true;

  listen(group: number) {
    const type = group === NFNLGRP_CONNTRACK_NEW ? 0x100 : 0x102;
    const isOurs = (each: ReceivedMessage) => each.type === type;
    const listener = {
      lost: 0,
      read: () => {
        const read = this.messages.filter(isOurs);
        this.messages = this.messages.filter((each) => !isOurs(each));
        return read;
      },
      close: () => this.listeners.delete(group),
    };
    this.listeners.set(group, listener);
    return listener;
  }

  tell(kind: "new" | "destroy", entry: ConntrackEntry): void {
    const type = kind === "new" ? 0x100 : 0x102;
    const flags = kind === "new" ? 0x600 : 0;
    this.messages.push({ type, flags, sequence: 0, portId: 0, body: entryBody(entry) });
  }

  readonly channel: FlowChannel = {
    dump: (message, decode) => {
      this.dumps.push(message);
      if (!this.filters && message.body.length > 4 + 16) {
        throw new NetlinkError("dump", { errno: EINVAL });
      }
      return this.entries.map((entry) => decode(entryBody(entry)));
    },
    requestEach: (messages) => messages.map((_, i) => (i === 0 ? 0 : 2)),
  };
}

const lines = { connections: "all", sample: 1, counts: true } as const;

function logOf(level: number, changes: Partial<WantedLines> = {}) {
  const kernel = new FakeKernel();
  const printed: ConnectionEvent[] = [];
  const warned: string[] = [];
  const ends: string[] = [];
  const log = new FlowLog({
    ...{ owner, protocol: "tcp" },
    open: (group) => kernel.listen(group),
    print: (events) => printed.push(...events),
    warn: (text) => warned.push(text),
    ended: (entry, { reason }) => ends.push(`${entry.id} ${reason}`),
  });
  log.want({ ...lines, level, ...changes });
  const reasons = () => printed.map(({ kind, end }) => `${kind} ${end?.reason}`);
  const count = (counter: number) => log.sums.figures([]).counters[counter] as number;
  return { kernel, log, printed, warned, ends, reasons, count };
}

describe("lines", () => {
  test.each([
    [LogLevel.error, []],
    [LogLevel.warning, ["forwarded reset"]],
    [LogLevel.info, ["forwarded done", "forwarded reset"]],
    [LogLevel.debug, ["accepted undefined", "forwarded done", "forwarded reset"]],
  ] as const)("at level %d", (level, expected) => {
    const { kernel, log, reasons, count } = logOf(level);
    // Events of several listeners come in any order.
    for (const entry of [done, reset, foreign]) kernel.tell("destroy", entry);
    kernel.tell("new", done);
    log.poll(startedAt);
    expect(reasons()).toEqual([...expected]);
    expect([Counter.accepted, Counter.failed].map(count)).toEqual([2, 1]);
    expect([Counter.clientBytes, Counter.upstreamBytes].map(count)).toEqual([600, 8000]);
    expect(readTallies([log.sums.tally]).ends).toEqual([
      { protocol: "tcp", by: "unknown", reason: "done", count: 1 },
      { protocol: "tcp", by: "unknown", reason: "reset", count: 1 },
    ]);
  });

  test.each([
    ["none", { connections: "none" }, []],
    ["those that failed", { connections: "failed" }, ["forwarded reset"]],
    ["one of two that went well", { sample: 2 }, ["forwarded done", "forwarded reset"]],
  ] as const)("of %s", (_, changes, expected) => {
    const { kernel, log, reasons } = logOf(LogLevel.info, changes);
    for (const entry of [done, reset, { ...done, id: 90 }]) kernel.tell("destroy", entry);
    log.poll(startedAt);
    expect(reasons()).toEqual([...expected]);
  });

  test.each([
    ["neither lines nor counters", LogLevel.error, { counts: false }, []],
    ["no lines of connections", LogLevel.debug, { connections: "none", counts: false }, []],
    ["counters alone", LogLevel.error, {}, [NFNLGRP_CONNTRACK_DESTROY]],
    ["lines alone", LogLevel.info, { counts: false }, [NFNLGRP_CONNTRACK_DESTROY]],
    ["all", LogLevel.debug, {}, [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY]],
  ] as const)("the kernel makes events of what is wanted: %s", (_, level, changes, groups) => {
    const { kernel, log } = logOf(level, changes);
    expect([...kernel.listeners.keys()].toSorted()).toEqual([...groups]);
    // The level changes while it runs.
    log.want({ ...lines, level: LogLevel.debug });
    expect([...kernel.listeners.keys()].toSorted()).toEqual([1, 3]);
    log.want({ ...lines, ...changes, level });
    expect([...kernel.listeners.keys()].toSorted()).toEqual([...groups]);
    log.close();
    expect(kernel.listeners.size).toBe(0);
  });

  test("what was deleted has the reason of that, once", () => {
    const { kernel, log, ends, reasons } = logOf(LogLevel.info);
    log.deleting([done, session({ id: 80 })], ended("stopped"));
    for (const entry of [done, session({ id: 80 }), done]) kernel.tell("destroy", entry);
    log.poll(startedAt);
    expect(reasons()).toEqual(["forwarded stopped", "forwarded stopped", "forwarded done"]);
    expect(ends).toEqual(["77 done"]);
  });

  test("what goes on elsewhere has no line, and is no connection of the service", () => {
    const { kernel, log, ends, reasons, count } = logOf(LogLevel.debug);
    log.deleting([done], undefined);
    kernel.tell("destroy", done);
    log.poll(startedAt);
    expect([reasons(), ends, count(Counter.accepted)]).toEqual([[], [], 0]);
    const [values] = [...log.sums.figures([]).upstreams.values()];
    expect(values?.[UpstreamCounter.timeout]).toBe(1);
  });

  test("lost events are connections that have ended, told each time that some were lost", () => {
    const { kernel, log, warned, reasons, count } = logOf(LogLevel.info);
    log.poll(0);
    const listener = kernel.listeners.get(NFNLGRP_CONNTRACK_DESTROY) as { lost: number };
    // Of four that were deleted one is heard of, and one goes on elsewhere.
    log.deleting([done, reset, session({ id: 80 })], ended("killed"));
    log.deleting([session({ id: 81 })], undefined);
    kernel.tell("destroy", reset);
    listener.lost = 5;
    log.poll(0);
    log.poll(0);
    expect(reasons()).toEqual(["forwarded killed"]);
    expect([log.lostLines, count(Counter.accepted)]).toEqual([4, 5]);
    expect(warned).toEqual([expect.stringContaining("lines of the log are missing")]);
    listener.lost = 6;
    log.poll(0);
    expect([log.lostLines, warned.length]).toEqual([5, 2]);
  });

  test("an event that cannot be read is told once, and ends nothing", () => {
    const { kernel, log, reasons, warned } = logOf(LogLevel.info);
    const bad = { type: 0x102, flags: 0, sequence: 0, portId: 0, body: new Uint8Array(5) };
    kernel.messages.push(bad, bad);
    kernel.tell("destroy", done);
    log.poll(startedAt);
    expect(reasons()).toEqual(["forwarded done"]);
    expect(warned).toHaveLength(1);
  });
});

describe("tables", () => {
  const mark = { value: 0x0100_0000 as Mark, mask: 0xff00_0000 };

  test("a kernel that cannot filter lists all, and the same is found", () => {
    const { kernel } = logOf(LogLevel.info);
    kernel.entries = [done, foreign, session({ id: 91, status: 0 })];
    kernel.filters = false;
    const status = { value: 0, mask: 2 };
    expect(readFlows(kernel.channel, { mark, status }).map(({ id }) => id)).toEqual([91]);
    expect(kernel.dumps).toHaveLength(2);
  });

  test("an entry that a dump lists twice is one", () => {
    const { kernel } = logOf(LogLevel.info);
    kernel.entries = [done, done];
    expect(readFlows(kernel.channel, { mark })).toHaveLength(1);
  });

  test("deleted are those that were still there", () => {
    const { kernel } = logOf(LogLevel.info);
    expect(deleteFlows(kernel.channel, [done, reset])).toBe(1);
  });
});
