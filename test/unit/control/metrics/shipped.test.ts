/** The alerts and the board that are shipped: they ask for metrics that there are. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { metricNames } from "../../../helpers/metrics-data.ts";
import { testWith, which } from "../../../helpers/tools.ts";

const folder = join(import.meta.dir, "../../../../build/package/files");
const alerts = join(folder, "alerts.yml");

interface Board {
  readonly panels: readonly { readonly targets?: readonly { readonly expr: string }[] }[];
  readonly templating: { readonly list: readonly { readonly query: string }[] };
}

/** The metrics that an expression names. */
const namesIn = (expression: string) => expression.match(/\b(?:tproxy|process)_[a-z_]+\b/g) ?? [];

function expectKnown(expressions: readonly string[]): void {
  for (const expression of expressions) {
    for (const name of namesIn(expression)) expect(metricNames).toContain(name);
  }
}

test("every metric of the alerts is there, and each alert is documented", () => {
  const text = readFileSync(alerts, "utf8");
  const expressions = text.match(/^ +expr: .*$/gm) ?? [];
  expect(expressions.length).toBeGreaterThan(8);
  expectKnown(expressions);
  const guide = readFileSync(join(folder, "../../../docs/operations.md"), "utf8");
  for (const [, alert] of text.matchAll(/alert: (\w+)/g)) expect(guide).toContain(`\`${alert}\``);
});

test("every metric of the board is there", () => {
  const board = JSON.parse(readFileSync(join(folder, "grafana.json"), "utf8")) as Board;
  const expressions = board.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  expect(expressions.length).toBeGreaterThan(20);
  for (const expression of expressions) expect(namesIn(expression).length).toBeGreaterThan(0);
  expectKnown(expressions);
  expectKnown(board.templating.list.map(({ query }) => query));
});

test("a metric that is not there is found", () => {
  expect(() => expectKnown(["rate(tproxy_nothing_total[5m])"])).toThrow();
});

testWith(["promtool"])("promtool accepts the alerts, and every expression of the board", () => {
  const promtool = which("promtool") as string;
  const checked = Bun.spawnSync([promtool, "check", "rules", alerts]);
  expect([checked.exitCode, checked.stderr.toString()]).toEqual([0, ""]);
  const board = JSON.parse(readFileSync(join(folder, "grafana.json"), "utf8")) as Board;
  const expressions = board.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  const rules = expressions.map((expr, index) => ({
    record: `panel:${index}`,
    expr: expr.replaceAll("$__rate_interval", "5m"),
  }));
  const file = JSON.stringify({ groups: [{ name: "board", rules }] });
  const { exitCode, stderr } = Bun.spawnSync([promtool, "check", "rules", "/dev/stdin"], {
    stdin: Buffer.from(file),
  });
  expect([exitCode, stderr.toString()]).toEqual([0, ""]);
});
