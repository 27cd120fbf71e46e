import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type HoldAction,
  type HoldInput,
  type HoldSignal,
  nextHold,
  startHold,
} from "../../../../src/capture/live/hold-state.ts";

/** The actions of a run of inputs. */
function actions(staysHeld: boolean, deadlineMs: number | undefined, inputs: HoldInput[]) {
  let state = startHold(staysHeld, deadlineMs);
  const done: HoldAction[] = [];
  for (const input of inputs) {
    const [next, action] = nextHold(state, input);
    state = next;
    if (action !== undefined) done.push(action);
    if (action === "look" && input.kind === "tick") {
      [state] = nextHold(state, { kind: "repaired", nowMs: input.nowMs, failed: false });
    }
  }
  return { done, phase: state.phase };
}

const tick = (nowMs: number, members: Partial<Extract<HoldInput, { kind: "tick" }>> = {}) =>
  ({ kind: "tick", nowMs, heard: false, isConfirmed: false, ...members }) as const;
const signal = (name: HoldSignal) => ({ kind: "signal", name }) as const;

type Case = [
  what: string,
  held: boolean,
  deadlineMs: number | undefined,
  inputs: HoldInput[],
  done: HoldAction[],
];

const cases: Case[] = [
  ["held: nothing happens", true, undefined, [tick(0), tick(100)], []],
  [
    "held: a change is looked at once",
    true,
    undefined,
    [tick(0, { heard: true }), tick(1)],
    ["look"],
  ],
  ["held: ended", true, undefined, [signal("SIGTERM"), tick(1, { heard: true })], ["release"]],
  ["held: hung up", true, undefined, [signal("SIGHUP")], ["release"]],
  ["held: nobody reads", true, undefined, [signal("EPIPE"), signal("SIGTERM")], ["release"]],
  ["pending: before the deadline", false, 1000, [tick(0), tick(999)], []],
  ["pending: at the deadline", false, 1000, [tick(999), tick(1000), tick(1100)], ["expire"]],
  ["pending: hung up, then the deadline", false, 1000, [signal("SIGHUP"), tick(1000)], ["expire"]],
  ["pending: nobody reads", false, 1000, [signal("EPIPE"), tick(5)], []],
  ["pending: ended", false, 1000, [signal("SIGINT"), tick(1000)], ["abandon"]],
  ["pending: confirmed", false, 1000, [tick(5, { isConfirmed: true }), tick(1000)], ["keep"]],
  [
    "pending: confirmed at the last moment",
    false,
    1000,
    [tick(1000, { isConfirmed: true })],
    ["keep"],
  ],
  [
    "pending and held: confirmed, then held for ever",
    true,
    1000,
    [
      tick(5, { isConfirmed: true }),
      tick(6, { isConfirmed: true }),
      tick(99_999),
      signal("SIGTERM"),
    ],
    ["confirm", "look", "release"],
  ],
  [
    "pending: repaired meanwhile",
    false,
    1000,
    [tick(5, { heard: true }), tick(1000)],
    ["look", "expire"],
  ],
];

describe("what a holding process does:", () => {
  for (const [what, held, deadlineMs, inputs, done] of cases) {
    test(what, () => expect(actions(held, deadlineMs, inputs).done).toEqual(done));
  }

  test("two programs that undo each other's work do not spin", () => {
    const storm = Array.from({ length: 600 }, (_, i) => tick(100 * i, { heard: true }));
    const { done } = actions(true, undefined, storm);
    // A minute of changes at every tick: five repairs in five seconds.
    expect(done.length).toBeGreaterThan(40);
    expect(done.length).toBeLessThan(70);
  });

  test("a change that had to wait is looked at later, though nothing follows", () => {
    const storm = Array.from({ length: 8 }, (_, i) => tick(i, { heard: true }));
    const { done } = actions(true, undefined, [...storm, tick(4000), tick(6000)]);
    expect(done).toEqual(["look", "look", "look", "look", "look", "look"]);
  });
});

const anyInput: fc.Arbitrary<(nowMs: number) => HoldInput> = fc
  .oneof(
    { weight: 8, arbitrary: fc.record({ heard: fc.boolean(), isConfirmed: fc.constant(false) }) },
    { weight: 1, arbitrary: fc.record({ heard: fc.boolean(), isConfirmed: fc.boolean() }) },
    {
      weight: 1,
      arbitrary: fc.constantFrom<HoldSignal>("SIGHUP", "SIGINT", "SIGTERM", "EPIPE").map(signal),
    },
  )
  .map((input) => (nowMs: number) => ("kind" in input ? input : tick(nowMs, input)));

test("whatever happens, it ends once at most, and unconfirmed by the deadline", () => {
  fc.assert(
    fc.property(fc.array(anyInput), fc.boolean(), fc.option(fc.nat(2000)), (steps, held, limit) => {
      const deadlineMs = limit ?? undefined;
      const inputs = steps.map((make, i) => make(100 * i));
      const { done, phase } = actions(held, deadlineMs, inputs);
      const ends = done.filter((each) => each !== "look" && each !== "confirm");
      expect(ends.length).toBe(phase === "over" ? 1 : 0);
      // Without a tick it has not been told the time.
      const lastTick = inputs.findLast((input) => input.kind === "tick")?.nowMs ?? -1;
      if (deadlineMs !== undefined && lastTick >= deadlineMs) expect(phase).not.toBe("pending");
    }),
  );
});
