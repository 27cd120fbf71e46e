/** The log of the kernel path: what is logged at which level, counted, and lost. */

import { describe, expect, test } from "bun:test";
import { EINVAL } from "../../../../ffi/errno.ts";
import type { ConntrackEntry } from "../../../../ffi/netlink/conntrack.ts";
import * as c from "../../../../ffi/netlink/conntrack-constants.ts";
import { NetlinkError } from "../../../../ffi/netlink/socket.ts";
import type { Message, ReceivedMessage } from "../../../../ffi/netlink/wire.ts";
import type { Mark } from "../../../../ffi/types.ts";
import { FlowLog } from "../../../../src/control/kernel-path/flow-log.ts";
import {
  deleteFlows,
  type FlowChannel,
  readFlows,
} from "../../../../src/control/kernel-path/flows.ts";
import { ended } from "../../../../src/workers/end-reason.ts";
import { type ConnectionEvent, LogLevel } from "../../../../src/workers/protocol.ts";
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
  overruns = 0;
  filters = true;

  read() {
    return this.messages.splice(0);
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

function logOf(level: number) {
  const kernel = new FakeKernel();
  const printed: ConnectionEvent[] = [];
  const warned: string[] = [];
  const ends: string[] = [];
  const log = new FlowLog({
    monitor: kernel,
    ownerOf: (mark) => (mark >>> 24 === 1 ? { ...owner, level } : undefined),
    print: (events) => printed.push(...events),
    warn: (text) => warned.push(text),
    ended: (entry, { reason }) => ends.push(`${entry.id} ${reason}`),
  });
  const reasons = () => printed.map(({ kind, end }) => `${kind} ${end?.reason}`);
  return { kernel, log, printed, warned, ends, reasons };
}

describe("lines", () => {
  test.each([
    [LogLevel.error, []],
    [LogLevel.warning, ["forwarded reset"]],
    [LogLevel.info, ["forwarded done", "forwarded reset"]],
    [LogLevel.debug, ["accepted undefined", "forwarded done", "forwarded reset"]],
  ] as const)("at level %d", (level, expected) => {
    const { kernel, log, reasons } = logOf(level);
    kernel.tell("new", done);
    for (const entry of [done, reset, foreign]) kernel.tell("destroy", entry);
    log.poll(startedAt);
    expect(reasons()).toEqual([...expected]);
    const { ended: count, failed, clientBytes, upstreamBytes, tally } = log.totals(1);
    expect([count, failed, clientBytes, upstreamBytes]).toEqual([2, 1, 600, 8000]);
    expect(readTallies([tally]).ends).toEqual([
      { protocol: "tcp", by: "unknown", reason: "done", count: 1 },
      { protocol: "tcp", by: "unknown", reason: "reset", count: 1 },
    ]);
    expect(log.totals(2).ended).toBe(0);
  });

  test("what was deleted has the reason of that, once", () => {
    const { kernel, log, ends, reasons } = logOf(LogLevel.info);
    log.deleting([done, session({ id: 80 })], ended("stopped"));
    for (const entry of [done, session({ id: 80 }), done]) kernel.tell("destroy", entry);
    log.poll(startedAt);
    expect(reasons()).toEqual(["forwarded stopped", "forwarded stopped", "forwarded done"]);
    expect(ends).toEqual(["77 done"]);
  });

  test("what goes on elsewhere has no line, and counts for nothing", () => {
    const { kernel, log, ends, reasons } = logOf(LogLevel.debug);
    log.deleting([done], undefined);
    kernel.tell("destroy", done);
    log.poll(startedAt);
    expect([reasons(), ends, log.totals(1).ended]).toEqual([[], [], 0]);
  });

  test("lost events are counted, and told each time that some were lost", () => {
    const { kernel, log, warned } = logOf(LogLevel.info);
    log.poll(0);
    kernel.overruns = 2;
    log.poll(0);
    log.poll(0);
    expect(log.lostEvents).toBe(2);
    expect(warned).toEqual([expect.stringContaining("lines of the log are missing")]);
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
