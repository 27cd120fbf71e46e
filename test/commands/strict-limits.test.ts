/** More connections than there are descriptors for: said, or with --strict-limits refused. */

import { expect, test } from "bun:test";
import { run, start } from "../helpers/tproxy.ts";

const few = ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh"];
const own = "--no-transparent 127.0.0.1:0";
const forward = `forward ${own} --source self --to 127.0.0.1:9`;

const cases = [
  [`${forward} --max-connections 5000`, "--max-connections 5000"],
  [`${forward} --udp --max-sessions 5000 --workers 2`, "--max-sessions 5000"],
  [`listen ${own} --max-connections 5000`, "--max-connections 5000"],
] as const;

test.each(cases)(
  "%s",
  async (line, named) => {
    const lowered = new RegExp(
      `${named} is lowered to (\\d+), because the limit on descriptors .*LimitNOFILE=`,
    );
    const refused = await run([...line.split(" "), "--strict-limits"], { prefix: few });
    expect(refused.stderr).toMatch(/^tproxy: Cannot start by --strict-limits: [^\n]*\n$/);
    expect(refused.stderr).toMatch(lowered);
    expect([refused.status, refused.stdout]).toEqual([1, ""]);
    const running = start(line.split(" "), { prefix: few });
    const [, count] = await running.until(lowered);
    expect(Number(count)).toBeLessThan(300);
    running.kill("SIGTERM");
    expect((await running.finished()).status).toBe(0);
  },
  240_000,
);

test("what there is room for is not mentioned", async () => {
  const running = start(`${forward} --max-connections 10 --strict-limits`.split(" "), {
    prefix: few,
  });
  await running.until(/Bound to/);
  running.kill("SIGTERM");
  expect((await running.finished()).stdout).not.toContain("lowered");
}, 240_000);
