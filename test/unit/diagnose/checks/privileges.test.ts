/** Which capabilities a command needs, and how it is told that it lacks one. */

import { describe, expect, test } from "bun:test";
import {
  answerNeeds,
  bindNeeds,
  clientPortNeeds,
  explainUnmet,
  type Held,
  ruleNeeds,
  unmet,
} from "../../../../src/diagnose/checks/privileges.ts";
import type { PortRange } from "../../../../src/net/port.ts";

const having = (...names: string[]): Held => ({ effective: new Set(names), ownsNetwork: true });
const range = (from: number, to = from) => ({ from, to }) as PortRange;

describe("a socket", () => {
  const needs = (port: number, transparent: boolean, start: number | undefined = 1024) =>
    bindNeeds({ name: "tcp://0.0.0.0:80", port, transparent }, start);

  test.each([
    ["an own port that is free to all", needs(8080, false), having(), 0],
    ["a low port", needs(80, false), having("CAP_NET_ADMIN"), 1],
    ["a low port, with the capability", needs(80, false), having("CAP_NET_BIND_SERVICE"), 0],
    ["a low port that is free to all", needs(80, false, 80), having(), 0],
    [
      "a sysctl that cannot be read: the kernel decides",
      bindNeeds({ name: "", port: 80, transparent: false }, undefined),
      having(),
      0,
    ],
    ["port 0", needs(0, false), having(), 0],
    ["a transparent one", needs(8080, true), having(), 1],
    ["a transparent one, by CAP_NET_RAW", needs(8080, true), having("CAP_NET_RAW"), 0],
    [
      "in a network that another user namespace owns",
      needs(8080, true),
      { ...having("CAP_NET_ADMIN"), ownsNetwork: false },
      1,
    ],
  ])("%s", (_, wanted, held, count) => {
    expect(unmet(wanted, held)).toHaveLength(count);
  });
});

describe("UDP answers", () => {
  const needs = (listeners: number[], captured?: PortRange[]) =>
    answerNeeds({ listeners, captured }, 1024);
  const kinds = (list: ReturnType<typeof needs>) =>
    list.map(({ otherwise }) => (otherwise === undefined ? "all" : "some"));

  test.each([
    ["of the listener's own port leave through it", [53], [range(53)], []],
    ["from a low port", [5300], [range(53)], ["all"]],
    ["from a range of low ports", [5300], [range(1, 1023)], ["all"]],
    ["from low and other ports", [5300], [range(53), range(4000)], ["some"]],
    ["from a range that begins low", [5300], [range(1000, 2000)], ["some"]],
    ["from high ports", [5300], [range(4000, 65535)], []],
    ["from every port", [5300], [], ["some"]],
    ["by rules of others", [5300], undefined, ["some"]],
  ])("%s", (_, listeners, captured, expected) => {
    expect(kinds(needs(listeners, captured))).toEqual(expected as ("all" | "some")[]);
  });

  test("need one of two capabilities, and say what becomes of it", () => {
    const wanted = needs([5300]);
    expect(unmet(wanted, having("CAP_NET_RAW"))).toEqual([]);
    expect(unmet(wanted, having("CAP_NET_BIND_SERVICE"))).toEqual([]);
    expect(explainUnmet(wanted, having())).toMatch(
      /^UDP answers from ports below 1024 need .* has neither, so .* get no answer: set /,
    );
    expect(clientPortNeeds(0)).toEqual([]);
    expect(explainUnmet(clientPortNeeds(1024), having())).toMatch(/^clients' ports below 1024/);
  });
});

test("one line names all that is missing", () => {
  const wanted = [
    ...bindNeeds({ name: "tcp://0.0.0.0:80", port: 80, transparent: true }, 1024),
    ...bindNeeds({ name: "udp://0.0.0.0:80", port: 80, transparent: true }, 1024),
    ...ruleNeeds("apply routes"),
  ];
  expect(explainUnmet(unmet(wanted, having()), having())).toBe(
    "IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW, ports below 1024 need " +
      "CAP_NET_BIND_SERVICE, ip rules and nf_tables need CAP_NET_ADMIN, and this process has " +
      "none of them: choose a port from 1024, or run it with sudo, from a service with " +
      "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE, or try it in a namespace of your " +
      'own: "unshare -Urn"',
  );
});

test("capabilities in the wrong user namespace are told as such", () => {
  const held = { ...having("CAP_NET_ADMIN"), ownsNetwork: false };
  expect(explainUnmet(unmet(ruleNeeds("apply routes"), held), held)).toMatch(
    /this process has CAP_NET_ADMIN, but not in the user namespace of its network/,
  );
});
