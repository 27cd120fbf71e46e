import { expect, test } from "bun:test";
import { problemsOf } from "../../../../src/control/server/problems.ts";
import type { ServiceStatus } from "../../../../src/control/server/status.ts";

type Problematic = Parameters<typeof problemsOf>[0];

const well = { isStopping: false, lastReload: undefined, services: [], pools: [] };
const service = (state: string) => ({ name: "web", state }) as ServiceStatus;
const pool = (...states: string[]) =>
  ({ name: "p", upstreams: states.map((state, i) => ({ name: `u${i}`, state })) }) as unknown;

test.each([
  ["nothing", {}, []],
  ["services and upstreams that are up", { services: [service("up")], pools: [pool("up")] }, []],
  [
    "a stop",
    { isStopping: true, services: [service("draining")] },
    ["stopping", "service web draining"],
  ],
  ["a reload", { lastReload: { isSuccessful: false } }, ["the last reload failed"]],
  ["a reload that went well", { lastReload: { isSuccessful: true } }, []],
  [
    "upstreams",
    { pools: [pool("down", "up", "drained")] },
    ["upstream p/u0 down", "upstream p/u2 drained"],
  ],
] as [string, object, string[]][])("the problems of a status: %s", (_, changes, expected) => {
  expect(problemsOf({ ...well, ...changes } as unknown as Problematic)).toEqual(expected);
});
