import { describe, expect, test } from "bun:test";
import { keysOf } from "../../../../src/cli/top/keys.ts";
import { type Action, TopModel } from "../../../../src/cli/top/model.ts";
import { statusAfter } from "../../../helpers/top-status.ts";

function typed(model: TopModel, sent: string): (Action | undefined)[] {
  return keysOf(sent).map((key) => model.press(key));
}

function withStatus(): TopModel {
  const model = new TopModel("services");
  model.update(statusAfter(10));
  model.update(statusAfter(12));
  return model;
}

test("rates are those between two statuses of one process", () => {
  const model = withStatus();
  expect(model.meter.all()).toEqual({ begun: 5, out: 1_000, back: 20_000 });
  expect(model.meter.upstream("web", "web1")).toEqual({ begun: 5, out: 1_000, back: 0 });
  model.update(statusAfter(13, { pid: 8 }));
  expect(model.meter.all()).toEqual({ begun: 0, out: 0, back: 0 });
});

describe("what is destructive is asked first", () => {
  test.each([
    ["3k", "y", { kind: "kill", id: "1.1.1" }],
    ["3\x1b[B\x1b[Bk", "y", { kind: "kill", id: "1.3.1" }],
    ["1d", "Y", { kind: "service", name: "web", state: "drained" }],
    ["2\x1b[Bd", "y", { kind: "upstream", pool: "web", name: "web2", state: "drain" }],
  ] as const)("%j", (keys, yes, action) => {
    const model = withStatus();
    expect(typed(model, keys).every((each) => each === undefined)).toBe(true);
    expect(model.question).toBeDefined();
    expect(typed(model, yes)).toEqual([action]);
    typed(model, keys);
    for (const no of ["n", "\r", "\x1b"]) {
      typed(model, keys);
      expect(typed(model, no)).toEqual([undefined]);
      expect(model.question).toBeUndefined();
    }
  });

  test("where there is nothing to end or to drain, the key says what it is for", () => {
    const model = withStatus();
    for (const keys of ["1k", "3d", "4k", "4d", "x"]) {
      typed(model, keys);
      expect(model.question).toBeUndefined();
      expect(model.message).not.toBe("");
    }
  });
});

test("a chosen row stays chosen when the order changes, and a gone one gives way", () => {
  const model = withStatus();
  typed(model, "3\x1b[B");
  const { connections } = statusAfter(13);
  model.update(statusAfter(13, { connections: connections.toReversed() }));
  expect(model.rows()[model.chosenAt(model.rows())]?.key).toBe("1.2.1");
  model.update(statusAfter(14, { connections: connections.slice(0, 1) }));
  expect(model.chosenAt(model.rows())).toBe(0);
  model.update(statusAfter(15, { connections: [] }));
  expect(typed(model, "k\x1b[B\x1b[F")).toEqual([undefined, undefined, undefined]);
});

test("a filter: what the server knows is asked of it, other words are looked for here", () => {
  const model = withStatus();
  expect(typed(model, "3/client=198.51.100.0/24 100.2:\r").at(-1)).toEqual({ kind: "query" });
  expect(model.queryParts).toEqual([["client", "198.51.100.0/24"]]);
  expect(model.rows().map(({ key }) => key)).toEqual(["1.2.1"]);
  typed(model, "/\x15no such\x1b");
  expect(model.filter).toBe("client=198.51.100.0/24 100.2:");
  typed(model, "/\x15\r");
  expect(model.rows()).toHaveLength(3);
});

test("sorting: of connections by the server, of others here", () => {
  const model = withStatus();
  expect(typed(model, "3s")).toEqual([undefined, { kind: "query" }]);
  expect(model.connectionSort).toBe("bytes");
  expect(typed(model, "1ss")).toEqual([undefined, undefined, undefined]);
  expect(model.sort).toBe("out");
  typed(model, "2s");
  expect(model.rows().map(({ cells }) => cells[0])).toEqual(["web2", "web1"]);
});

test("paused, nothing that is shown changes", () => {
  const model = withStatus();
  typed(model, " ");
  model.update(statusAfter(60, { generation: 9 }));
  model.add({ time: "t", level: "info", text: "hidden" });
  expect(model.status?.generation).toBe(2);
  expect(model.log).toHaveLength(0);
  typed(model, " ");
  model.update(statusAfter(61, { generation: 9 }));
  expect(model.status?.generation).toBe(9);
});

test("the log has its newest line first, and is bounded", () => {
  const model = new TopModel("log");
  for (let i = 0; i < 1_100; i++) model.add({ time: `${i}`, level: "info", text: `line ${i}` });
  expect(model.rows()).toHaveLength(1_000);
  expect(model.rows()[0]?.cells[2]).toBe("line 1099");
});

test("q and Ctrl-C quit, Ctrl-C while something is typed or asked as well", () => {
  for (const before of ["", "/abc", "3k"]) {
    const model = withStatus();
    typed(model, before);
    expect(typed(model, "\x03")).toEqual([{ kind: "quit" }]);
  }
  expect(typed(withStatus(), "q")).toEqual([{ kind: "quit" }]);
});
