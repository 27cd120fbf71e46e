/** An upgrade without a server: the decisions by themselves, and both sides over a real channel. */

import { afterEach, describe, expect, test } from "bun:test";
import { fstatSync } from "node:fs";
import fc from "fast-check";
import { F_DUPFD_CLOEXEC } from "../../../../ffi/constants.ts";
import * as sys from "../../../../ffi/sys.ts";
import { type Handing, type NewProcess, Upgrade } from "../../../../src/control/upgrade/old.ts";
import {
  nextOld,
  type OldAction,
  type OldInput,
  type OldPhase,
} from "../../../../src/control/upgrade/old-state.ts";
import { Takeover, takeoverVariable } from "../../../../src/control/upgrade/takeover.ts";
import { eventually } from "../../../helpers/tproxy.ts";

const hello: OldInput = { kind: "hello", protocol: 1, version: "2" };
const other: OldInput = { kind: "hello", protocol: 2, version: "3" };
const offered: OldInput = { kind: "offered" };
const ready: OldInput = { kind: "ready" };
const failed: OldInput = { kind: "failed", lines: ["why"] };
const gone: OldInput = { kind: "gone", reason: "killed" };
const timeout: OldInput = { kind: "timeout" };
const stop: OldInput = { kind: "stop" };
const inputs = [hello, other, offered, ready, failed, gone, timeout, stop];

function run(all: readonly OldInput[]): { phase: OldPhase; actions: OldAction["kind"][] } {
  let phase: OldPhase = "starting";
  const actions: OldAction["kind"][] = [];
  for (const input of all) {
    const [next, done] = nextOld(phase, input);
    phase = next;
    actions.push(...done.map(({ kind }) => kind));
  }
  return { phase, actions };
}

describe("decisions", () => {
  test("the whole way", () => {
    expect(run([hello, offered, ready, timeout, gone])).toEqual({
      phase: "draining",
      actions: ["offer", "hand", "drain"],
    });
  });

  test.each([
    ["an unknown protocol", [other], ["kill", "report"]],
    ["an end at once", [gone], ["kill", "report"]],
    ["a refusal", [failed], ["kill", "report"]],
    ["an end with all of it", [hello, offered, gone], ["offer", "kill", "thaw", "report"]],
    ["no answer", [hello, timeout], ["offer", "kill", "thaw", "report"]],
    ["a stop of the old one", [hello, stop], ["offer", "kill", "thaw", "report"]],
    ["too early", [hello, ready], ["offer", "kill", "thaw", "report"]],
    [
      "an end soon after",
      [hello, offered, ready, gone],
      ["offer", "hand", "kill", "thaw", "takeBack", "report"],
    ],
    ["a stop soon after", [hello, offered, ready, stop], ["offer", "hand", "drain"]],
  ])("%s", (_, all, actions) => {
    const result = run(all as OldInput[]);
    expect(result.actions).toEqual(actions as OldAction["kind"][]);
  });

  test("whatever comes, one process looks after the rules and receives what is new", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...inputs), { maxLength: 12 }), (all) => {
        const { phase, actions } = run(all);
        const count = (kind: OldAction["kind"]) => actions.filter((each) => each === kind).length;
        const hasHanded = count("hand") === 1 && count("takeBack") === 0;
        expect(hasHanded).toBe(phase === "trial" || phase === "draining");
        // Frozen only while it is under way or handed.
        const isFrozen = count("offer") - count("thaw") === 1;
        expect(isFrozen).toBe(phase !== "starting" && phase !== "over");
        expect(count("report")).toBe(phase === "over" ? 1 : 0);
        expect(count("drain")).toBe(phase === "draining" ? 1 : 0);
      }),
    );
  });
});

describe("both sides", () => {
  const closers: (() => void)[] = [];
  afterEach(() => {
    for (const close of closers.splice(0)) close();
  });

  const times = { readyMs: 2_000, trialMs: 200, countersMs: 60, moveMs: 2_000 };
  const identity = {
    tableName: "tproxyd",
    mark: { value: 1, mask: 1 },
    table: 100,
    priority: 100,
  };

  function begin(version = "2.0.0") {
    const done: string[] = [];
    const said: string[] = [];
    const files = Array.from({ length: 300 }, () => sys.eventfd(0, 0));
    closers.push(() => files.forEach((fd) => void sys.close(fd)));
    let counted = 0;
    const settled: [left: number, kept: readonly number[]][] = [];
    const handing: Handing = {
      offer() {
        done.push("offer");
        const [netlink = -1, ...listeners] = files;
        return {
          parts: { admin: { web: "drain" } },
          listeners,
          netlink: { fd: netlink, identity },
        };
      },
      thaw: () => void done.push("thaw"),
      hand: async (pid) => void done.push(`hand ${pid}`),
      takeBack: () => void done.push("takeBack"),
      drain: () => void done.push("drain"),
      moved: (connections) => void done.push(`moved ${connections}`),
      end: () => void done.push("end"),
      // What is open, each with one descriptor.
      workers: {
        count: 1,
        freeze: async (_worker, protocol, _most, isFirst) => {
          const descriptors = isFirst && settled.length === 0 ? files : [];
          const rows = descriptors.map((_, at) => ({
            ...{ protocol, service: "web", id: `1.${at}.1`, descriptors: 1 },
          }));
          return { numbers: [...rows.keys()], rows, descriptors, isLast: !isFirst };
        },
        settle: (_worker, left, kept) => void settled.push([left.length, kept]),
      },
      counters: () => ({
        services: { web: { counters: { accepted: ++counted, active: 3 }, tally: [1] } },
        ...{ upstreams: [counted], totals: { deaths: 1 }, open: 3 },
      }),
    };
    const exit = Promise.withResolvers<string>();
    const env: NodeJS.ProcessEnv = {};
    let takeover: Promise<Takeover | undefined> = Promise.resolve(undefined);
    const start = (fd: number): NewProcess => {
      env[takeoverVariable] = String(sys.fcntl(fd, F_DUPFD_CLOEXEC, 0));
      takeover = Takeover.begin(env, version);
      void takeover.catch(() => {});
      return { pid: 77, exited: exit.promise, kill: () => void done.push("kill") };
    };
    const upgrade = new Upgrade(handing, start, (line) => said.push(line), times);
    closers.push(() => upgrade.close());
    return { upgrade, takeover, exit, done, said, files, env, settled };
  }

  test("hands over listeners, rules, state and counters", async () => {
    const { upgrade, takeover, done, files, said, env, settled } = begin();
    const got = (await takeover) as Takeover;
    expect(env).toEqual({});
    expect(got.parts).toEqual({ admin: { web: "drain" } });
    const inodes = (fds: readonly number[]) => fds.map((fd) => fstatSync(fd).ino);
    expect(inodes(got.listeners)).toEqual(inodes(files.slice(1)));
    expect(got.capture?.identity).toEqual(identity);
    expect(inodes([got.capture?.fd ?? -1])).toEqual(inodes(files.slice(0, 1)));
    await got.ready(true);
    expect(await upgrade.result).toEqual({ ok: true, pid: 77, version: "2.0.0" });
    let begun = 0;
    got.onBatch = async (rows, fds) => {
      expect(rows.map(({ id }) => id)).toEqual(files.map((_, at) => `1.${at}.1`));
      expect(inodes(fds)).toEqual(inodes(files));
      for (const fd of fds) sys.close(fd);
      expect(settled).toEqual([]);
      return { refused: [7], begin: () => begun++ };
    };
    await got.moved;
    expect(settled[0]).toEqual([files.length - 1, [7]]);
    await eventually("the end of what stays", () => done.includes("end"));
    expect([begun, done]).toEqual([1, ["offer", "hand 77", "drain", "moved 299", "end"]]);
    await eventually("counters", () => (got.counted.web?.counters.accepted ?? 0) > 1);
    expect(got.open).toBe(3);
    const before = got.counted.web?.counters.accepted ?? 0;
    upgrade.close();
    await eventually("the end of the old one", () => got.open === 0);
    expect(got.counted.web?.counters.active).toBeUndefined();
    expect(got.counted.web?.counters.accepted).toBeGreaterThanOrEqual(before);
    got.stopOld();
    await got.ended;
    expect(said).toEqual([]);
    for (const fd of [...got.listeners, got.capture?.fd ?? -1]) sys.close(fd);
  });

  test("a new process that gives up has its reasons told, and the old one goes on", async () => {
    const { upgrade, takeover, done, said } = begin();
    const got = (await takeover) as Takeover;
    await got.failed(["service web: bad port", "another"]);
    const lines = ["service web: bad port", "another"];
    expect(await upgrade.result).toEqual({ ok: false, lines });
    expect(done).toEqual(["offer", "kill", "thaw"]);
    expect(said).toEqual(lines.map((line) => `upgrade: ${line}`));
    for (const fd of [...got.listeners, got.capture?.fd ?? -1]) sys.close(fd);
  });

  test("one that is killed in its first seconds has the old one serve again", async () => {
    const { upgrade, takeover, exit, done, said } = begin();
    const got = (await takeover) as Takeover;
    await got.ready(true);
    expect((await upgrade.result).ok).toBe(true);
    exit.resolve("signal SIGKILL");
    await eventually("its end", () => upgrade.isOver);
    expect(done).toEqual(["offer", "hand 77", "kill", "thaw", "takeBack"]);
    expect(said.join()).toContain("serves again");
    for (const fd of [...got.listeners, got.capture?.fd ?? -1]) sys.close(fd);
  });

  test("an end of the old one is an error of the new one, until all is offered", async () => {
    const first = begin();
    first.upgrade.close();
    expect(first.takeover).rejects.toThrow("before it had handed over");
    const second = begin();
    const got = (await second.takeover) as Takeover;
    second.upgrade.close();
    // It goes on alone.
    await got.ready(true);
    got.stopOld();
    await got.ended;
    for (const fd of [...got.listeners, got.capture?.fd ?? -1]) sys.close(fd);
  });

  test("no upgrade, no takeover", async () => {
    expect(await Takeover.begin({}, "1")).toBeUndefined();
    for (const bad of ["", "x", "-1", "0", "99999"]) {
      const env: NodeJS.ProcessEnv = { [takeoverVariable]: bad };
      expect(await Takeover.begin(env, "1")).toBeUndefined();
      expect(env).toEqual({});
    }
  });
});
