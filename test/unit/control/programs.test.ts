/** Programs are found where nobody else can have put another of the name. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmod, chown, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "../../../src/control/programs.ts";

let root = "";
const at = (...names: string[]) => join(root, ...names);

async function program(folder: string, mode: number, folderMode = 0o755): Promise<void> {
  await mkdir(at(folder), { recursive: true });
  await writeFile(at(folder, "prog"), "#!/bin/sh\n");
  await chmod(at(folder, "prog"), mode);
  await chmod(at(folder), folderMode);
}

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "tproxy-programs-"));
  await program("good", 0o755);
  await program("open", 0o755, 0o777);
  await program("sticky", 0o755, 0o1777);
  await program("group", 0o755, 0o775);
  await program("writable", 0o757);
  await program("dead", 0o644);
  await mkdir(at("links"));
  await symlink(at("good", "prog"), at("links", "prog"));
  await mkdir(at("traps"));
  await symlink(at("open", "prog"), at("traps", "prog"));
  await mkdir(at("folder", "prog"), { recursive: true });
});
afterAll(() => rm(root, { recursive: true, force: true }));

test("in a folder of ours, also by a link", () => {
  expect(findProgram("prog", at("good"))).toBe(at("good", "prog"));
  expect(findProgram("prog", at("links"))).toBe(at("good", "prog"));
  expect(findProgram("prog", `${at("none")}:${at("good")}`)).toBe(at("good", "prog"));
});

test.each(["open", "sticky", "group", "writable", "dead", "traps", "folder", "none"])(
  "not in %s, and the next folder is looked at",
  (name) => {
    expect(findProgram("prog", at(name))).toBeUndefined();
    expect(findProgram("prog", `${at(name)}:${at("good")}`)).toBe(at("good", "prog"));
  },
);

test("never in the current folder", () => {
  const before = process.cwd();
  process.chdir(at("good"));
  try {
    for (const path of ["", ".", "./", ":", "good", "../good"]) {
      expect(findProgram("prog", path)).toBeUndefined();
    }
  } finally {
    process.chdir(before);
  }
});

test.skipIf(process.getuid?.() !== 0)("for root not in a user's folder", async () => {
  await program("theirs", 0o755);
  await chown(at("theirs"), 65534, 65534);
  expect(findProgram("prog", at("theirs"))).toBeUndefined();
});
