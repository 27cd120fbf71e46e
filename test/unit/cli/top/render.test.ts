import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { keysOf } from "../../../../src/cli/top/keys.ts";
import { TopModel } from "../../../../src/cli/top/model.ts";
import { renderFrame, renderOnce } from "../../../../src/cli/top/render.ts";
import { views } from "../../../../src/cli/top/views.ts";
import { statusAfter } from "../../../helpers/top-status.ts";

function withStatus(): TopModel {
  const model = new TopModel("services");
  model.update(statusAfter(10));
  model.update(statusAfter(11));
  return model;
}

const plain = (lines: readonly string[]) => Bun.stripANSI(lines.join("\n"));

test("the head tells what runs, how much it carries, and what is wrong", () => {
  const text = plain(renderFrame(withStatus(), { columns: 100, rows: 20 }, false));
  expect(text).toContain("tproxy 0.1.0  pid 7  up 11 s  generation 2  2 workers  12:00:11");
  expect(text).toContain("3 open  5.0 new/s  out 1.0 kB/s  in 20 kB/s");
  expect(text).toContain("upstream web/web2 down");
  expect(text).toContain("[1 services (2)]");
  expect(text).toMatch(/SERVICE +STATE +OPEN +NEW\/s/);
});

test("where nothing is wrong, and where nothing comes", () => {
  const model = new TopModel("services");
  expect(plain(renderFrame(model, { columns: 80, rows: 10 }, false))).toContain("waiting");
  model.update(statusAfter(1, { pools: [], problems: [] }));
  expect(plain(renderFrame(model, { columns: 80, rows: 10 }, false))).toContain("all is well");
  model.problem = "no connection: the process has ended the stream";
  expect(plain(renderFrame(model, { columns: 80, rows: 10 }, true))).toContain("no connection");
});

test("what others name never reaches the terminal as it is", () => {
  const model = withStatus();
  const hostile = "\x1b]0;owned\x07\u202egnp\r\n";
  const [connection] = statusAfter(1).connections;
  model.update(
    statusAfter(12, {
      services: [{ name: hostile, state: hostile, pool: hostile, listeners: [], counters: {} }],
      pools: [
        {
          name: hostile,
          upstreams: [{ name: hostile, state: "x", reason: hostile, addresses: [] }],
        },
      ],
      connections: [{ ...(connection as NonNullable<typeof connection>), client: hostile }],
    }),
  );
  model.add({ time: hostile, level: hostile, text: hostile });
  for (const keys of ["1", "2", "3", "4", "1\r", "2\r", "3\r", "4\r", "1d", "3k", `/${hostile}`]) {
    const once = renderOnce(withStatus(), views, 80);
    expect(once).not.toContain("\x1b");
    for (const key of keysOf(keys)) model.press(key);
    const lines = renderFrame(model, { columns: 120, rows: 30 }, false);
    // The chosen row is inverse even without colours.
    const text = lines.join("\n").replaceAll("\x1b[7m", "").replaceAll("\x1b[0m", "");
    expect(text).not.toMatch(/[^\P{C}\n]/u);
    for (const key of keysOf("\x1b\x1b")) model.press(key);
  }
});

describe("a frame fills the screen and is not larger", () => {
  test("whatever its size is, and whatever was typed", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 60 }),
        fc.stringMatching(/^[1234sd?k /yn]{0,8}$/),
        (columns, rows, keys) => {
          const model = withStatus();
          for (const key of keysOf(keys)) model.press(key);
          const lines = renderFrame(model, { columns, rows }, true);
          expect(lines).toHaveLength(rows);
          for (const line of lines) {
            expect(Bun.stringWidth(line)).toBeLessThanOrEqual(columns);
            expect(line).not.toContain("\n");
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  test("the chosen row is always on it", () => {
    const model = withStatus();
    const [first] = statusAfter(1).connections;
    const many = Array.from({ length: 100 }, (_, at) => ({
      ...(first as NonNullable<typeof first>),
      id: `1.${at}.1`,
      client: `client-${at}`,
    }));
    model.update(statusAfter(20, { connections: many }));
    for (const key of keysOf("3")) model.press(key);
    for (let at = 0; at < 100; at++) {
      const chosen = renderFrame(model, { columns: 80, rows: 12 }, true).find((line) =>
        line.startsWith("\x1b[7m"),
      );
      expect(chosen).toContain(`client-${at} `);
      for (const key of keysOf("\x1b[B")) model.press(key);
    }
  });
});

test("columns go from the right where there is little room", () => {
  const model = withStatus();
  model.press({ name: "text", text: "3" });
  const heads = [200, 80, 40].map((columns) =>
    plain(renderFrame(model, { columns, rows: 12 }, false))
      .split("\n")
      .find((line) => line.startsWith("CLIENT")),
  );
  expect(heads[0]).toMatch(
    /CLIENT .*ORIGINAL .*UPSTREAM .*STATE .*AGE .*IDLE .*OUT\/s .*IN\/s .*TOTAL/,
  );
  expect(heads[1]).not.toContain("TOTAL");
  expect(heads[2]).toMatch(/^CLIENT +ORIGINAL/);
});

test("once: the head and each table, as text", () => {
  const text = renderOnce(withStatus(), ["services", "upstreams", "connections"], undefined);
  expect(text).not.toContain("\x1b");
  for (const word of ["SERVICE", "web2", "connection refused", "198.51.100.3:4000"]) {
    expect(text).toContain(word);
  }
});
