import { describe, expect, test } from "bun:test";
import { EMFILE, ETIMEDOUT } from "../../../../ffi/errno.ts";
import type { Fd } from "../../../../ffi/types.ts";
import { TimerWheel } from "../../../../src/engine/timers.ts";
import type { ConnectionOwner } from "../../../../src/forward/tcp/connection.ts";
import { TcpConnection } from "../../../../src/forward/tcp/connection.ts";
import type { ConnectionKernel } from "../../../../src/forward/tcp/connection-kernel.ts";
import { Dialer } from "../../../../src/forward/tcp/dialer.ts";
import type { PhaseHandlers } from "../../../../src/forward/tcp/phase.ts";
import type { ForwardTask } from "../../../../src/workers/protocol.ts";

const end = (last: number) => ({ address: Uint8Array.of(10, 0, 0, last), port: 80, scopeId: 0 });

const task = { dial: { fastOpen: false }, timeouts: { connectMs: 1_000 } } as ForwardTask;

/** Clients have numbers above it. */
const UPSTREAM = 9 as Fd;

/** Connections that are about to dial, over a kernel with so many descriptors for upstreams. */
function lab(descriptors: number) {
  const loop = { now: 0, timers: new TimerWheel(0) };
  const log: string[] = [];
  let free = descriptors;
  const kernel = {
    watch: () => 0,
    open: () => {
      if (free === 0) return { call: "socket", errno: EMFILE };
      free--;
      return UPSTREAM;
    },
    close: (fd: number) => {
      if (fd === UPSTREAM) free++;
    },
    resetOnClose: () => {},
    error: () => ETIMEDOUT,
  } as unknown as ConnectionKernel;
  const source = { kind: "self" } as const;
  const rules = { source, fallback: false, own: new Set<string>(), listeners: [] };
  const dialer = new Dialer(
    {
      ...{ loop, kernel, task },
      router: { pool: undefined, rules, timedOut: () => {} },
      ...{ loopDetector: { entered: () => 0 }, tally: { connected: () => {} } },
    },
    {
      warn: () => {},
      pauseAccepting: () => log.push("pause"),
      resumeAccepting: () => log.push("resume"),
    },
  );
  const route = {
    enter: (connection: TcpConnection) => {
      if (connection.attemptEnd !== undefined) return connection.close(connection.attemptEnd, true);
      connection.setState("dial");
    },
  };
  const owner: ConnectionOwner = {
    ...{ loop, kernel, forgetFlow: () => {}, moved: () => {} },
    phases: { route, dial: dialer } as unknown as PhaseHandlers<TcpConnection>,
    closed: (connection) => {
      log.push(`end ${connection.id}`);
      dialer.forget(connection);
      dialer.freed();
    },
  };
  const start = (id: number) => {
    const trail = { visits: 0, hopLimit: 0 };
    const connection = new TcpConnection(
      owner,
      (100 + id) as Fd,
      id,
      end(1),
      end(2),
      trail,
      "route",
    );
    connection.start();
    return connection;
  };
  const wait = (ms: number) => {
    for (const until = loop.now + ms; loop.now < until; loop.now += 16) {
      loop.timers.advance(loop.now);
    }
  };
  const release = (count: number) => {
    free += count;
  };
  return { log, loop, release, start, wait };
}

describe("a connection without a descriptor", () => {
  test("waits, and gets the first that is closed, before accepting goes on", () => {
    const { log, start } = lab(1);
    const [first, second] = [start(1), start(2)];
    expect(log).toEqual(["pause"]);
    expect([second.phase, second.upstreamFd]).toEqual(["connecting", undefined]);
    first.abort("stopped");
    expect(second.upstreamFd).toBe(UPSTREAM);
    expect(log.slice(0, 3)).toEqual(["pause", "end 1", "resume"]);
    second.abort("stopped");
  });

  test("asks again soon: descriptors may be free that nobody told of", () => {
    const { release, start, wait } = lab(0);
    const connection = start(1);
    release(1);
    wait(150);
    expect(connection.upstreamFd).toBe(UPSTREAM);
    connection.abort("stopped");
  });

  test("ends when connecting has taken too long, and thousands do so at once", () => {
    const { log, loop, start, wait } = lab(0);
    const all = Array.from({ length: 5_000 }, (_, index) => start(index + 1));
    wait(1_200);
    expect(new Set(all.map(({ end: how }) => how?.failure?.errno))).toEqual(new Set([EMFILE]));
    expect(log.filter((line) => line.startsWith("end"))).toHaveLength(5_000);
    expect(loop.timers.size).toBe(0);
    expect(log.at(-1)).toBe("resume");
  });
});
