/** The built executable where it is a static one, and places to run copies of it in. */

import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tproxy } from "./tproxy.ts";

/** The build; sources that run under Bun are none. */
export const executable = join(import.meta.dir, "../../dist/tproxy");

/** Whether it is there and is static, by its own word. */
export const isStatic =
  existsSync(executable) &&
  tproxy[0] === executable &&
  Bun.spawnSync([executable, "--version"]).stdout.toString().endsWith("-static)\n");

/** For `testWith`: what has to be so. */
export const asStatic = { "a static build": isStatic };

export const isRoot = process.getuid?.() === 0;

/**
 * A folder that every user can enter, with a copy of the executable: `tproxy`. Disposed of with all
 * that is in it.
 */
export async function folderWithCopy(): Promise<AsyncDisposable & { path: string; copy: string }> {
  const path = await mkdtemp(join(tmpdir(), "tproxy-static-"));
  const copy = join(path, "tproxy");
  await chmod(path, 0o755);
  await copyFile(executable, copy);
  await chmod(copy, 0o755);
  await mkdir(join(path, "proc"));
  return {
    path,
    copy,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
