import { describe, expect, test } from "bun:test";
import { checkMove, type Phase, phaseWords } from "../../../../src/forward/tcp/phase.ts";

const phases = Object.keys(phaseWords) as Phase[];
const isLegal = (from: Phase, to: Phase) => {
  try {
    checkMove(from, to);
    return true;
  } catch {
    return false;
  }
};

describe("the phases of a connection", () => {
  test("each but the last leads somewhere, and can end at once", () => {
    for (const from of phases.filter((phase) => phase !== "closed")) {
      expect([from, isLegal(from, "closed")]).toEqual([from, true]);
    }
    expect(phases.filter((to) => isLegal("closed", to))).toEqual([]);
  });

  test("the way to the relay has each phase in its order", () => {
    const way = ["preface", "route", "dial", "handshake", "relay", "closed"] as const;
    for (let i = 1; i < way.length; i++) checkMove(way[i - 1] as Phase, way[i] as Phase);
    // A place is awaited, and another upstream is tried, by way of the route.
    for (const phase of ["queue", "dial"] as const) {
      expect([isLegal("route", phase), isLegal(phase, "route")]).toEqual([true, true]);
    }
  });

  test("nothing is left out, and nothing comes again", () => {
    expect(isLegal("preface", "dial")).toBe(false);
    expect(isLegal("dial", "relay")).toBe(false);
    expect(phases.filter((from) => isLegal(from, "preface"))).toEqual([]);
    expect(() => checkMove("relay", "dial")).toThrow("must not move from relay to dial");
  });
});
