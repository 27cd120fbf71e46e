/** `examples/`: every command line of tproxy in them is accepted, and so are units and files. */

import { describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run, tproxy } from "./helpers/tproxy.ts";

const folder = join(import.meta.dir, "../examples");
const names = [...new Bun.Glob("*").scanSync(folder)].sort();
const textOf = (name: string) => readFileSync(join(folder, name), "utf8");

/** The arguments of each `tproxy …` of a script or a unit, in one line each. */
function commandLines(text: string): string[] {
  const found = text
    .replaceAll("\\\n", " ")
    .matchAll(/^(?:exec |ExecStart=\/usr\/bin\/)?tproxy (.*)$/gm);
  return [...found].map(([, args = ""]) => args.replace(/ \|\| true$/, "").replace(/ +/g, " "));
}

/** Runs what a command line would do, but changes nothing. */
async function rehearse(line: string): Promise<{ stderr: string; status: number | null }> {
  const [command = "", ...args] = line.split(" ");
  if (command === "routes") {
    const rest = args.filter((each) => each !== "--apply" && each !== "--hold");
    return run(["routes", "--print", ...rest]);
  }
  if (command !== "forward") return run([command, ...args]);
  const printed = await run(["forward", ...args, "--print-config"]);
  if (printed.status !== 0) return printed;
  return run(["check", "-c", "-"], { input: printed.stdout });
}

const lines = names.flatMap((name) => commandLines(textOf(name)).map((line) => [name, line]));

test("they were read", () => {
  expect(lines.length).toBeGreaterThanOrEqual(6);
  for (const name of names) expect(textOf("../README.md")).toContain(`examples/${name}`);
});

test.each(lines)("%s: tproxy %s", async (_, line = "") => {
  const { stderr, status } = await rehearse(line);
  if (line.startsWith("doctor ")) return expect([0, 1]).toContain(status ?? -1);
  expect([stderr, status]).toEqual(["", 0]);
});

test("a command line that is not accepted fails", async () => {
  expect((await rehearse("forward :80 --to nowhere")).status).toBe(2);
  expect(commandLines("exec tproxy forward :80 \\\n  --to a:1\n# tproxy x\n")).toEqual([
    "forward :80 --to a:1",
  ]);
});

describe("files", () => {
  test.each(names.filter((name) => name.endsWith(".toml")))("%s", async (name) => {
    const { stdout, stderr, status } = await run(["check", "-c", join(folder, name)]);
    expect([stderr, status]).toEqual(["", 0]);
    expect(stdout).toContain("2 services");
  });

  test.each(names.filter((name) => name.endsWith(".sh")))("%s is a shell script", (name) => {
    const { stderr, exitCode } = Bun.spawnSync(["sh", "-n", join(folder, name)]);
    expect([stderr.toString(), exitCode]).toEqual(["", 0]);
  });

  const units = names.filter((name) => name.endsWith(".service"));
  test.skipIf(Bun.which("systemd-analyze") === null)("units are valid", async () => {
    const place = mkdtempSync(join(tmpdir(), "tproxy-units-"));
    chmodSync(place, 0o755);
    for (const name of units) {
      await Bun.write(
        join(place, name),
        textOf(name).replaceAll("/usr/bin/tproxy", tproxy[0] ?? ""),
      );
    }
    const paths = units.map((name) => join(place, name));
    const { stderr, exitCode } = Bun.spawnSync(["systemd-analyze", "verify", ...paths]);
    rmSync(place, { recursive: true });
    expect([stderr.toString(), exitCode]).toEqual(["", 0]);
  });
});
