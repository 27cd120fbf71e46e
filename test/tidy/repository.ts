/** The repository as git sees it. */

import { join } from "node:path";
import type { Files } from "./facts.ts";

const root = join(import.meta.dir, "../..");

/**
 * All text files that are tracked or would be (not ignored), with their texts. Outside git, as in
 * an unpacked archive, the folders that hold sources.
 */
export async function repositoryFiles(): Promise<Files> {
  const git = Bun.spawnSync(["git", "ls-files", "-z", "-co", "--exclude-standard"], { cwd: root });
  const paths = git.success
    ? git.stdout.toString().split("\0").filter(Boolean)
    : [...new Bun.Glob("{build.ts,*.md,{build,ffi,src,test}/**/*}").scanSync({ cwd: root })];
  const files: Record<string, string> = {};
  for (const path of paths) {
    const file = Bun.file(join(root, path));
    if (!(await file.exists())) continue;
    const text = await file.text();
    if (!text.includes("\0")) files[path] = text;
  }
  return files;
}
