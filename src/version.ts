/**
 * What this executable is. `build.ts` bakes the constants in with `--define`; run from source they
 * are not defined and the fallbacks say so.
 */

import { version as release } from "../package.json" with { type: "json" };

declare const TPROXY_COMMIT: string | undefined;
declare const TPROXY_TARGET: string | undefined;

/** The release, as in package.json. */
export const version: string = release;

/** The short git commit, with `-dirty` after it when files differed; `unknown` outside git. */
export const commit: string = typeof TPROXY_COMMIT === "string" ? TPROXY_COMMIT : "source";

/** What was built: `linux-x64-static`; without `-static` a dynamic one, with `-musl` for musl. */
const target: string =
  typeof TPROXY_TARGET === "string" ? TPROXY_TARGET : `${process.platform}-${process.arch}`;

/** Whether it is the static one, which hides from Bun the variables that Bun would obey. */
export const isStatic: boolean = target.endsWith("-static");

/** The C library in use with its own version: `glibc 2.36`, or `musl`, which does not tell it. */
function libcVersion(): string {
  // The report takes most of a millisecond, and every command has this text ready.
  if (isStatic) return "musl";
  const { header } = process.report.getReport() as {
    header: { glibcVersionRuntime?: string };
  };
  return header.glibcVersionRuntime === undefined ? "musl" : `glibc ${header.glibcVersionRuntime}`;
}

/** The text of `--version`, one line: its first two words name the release. */
export function versionText(): string {
  const build = `commit ${commit}, Bun ${Bun.version}, ${libcVersion()}, built for ${target}`;
  return `tproxy ${version} (${build})`;
}
