/** The sources, compiled: `bun build --compile` with the options that every executable has. */

import { join } from "node:path";

const root = join(import.meta.dir, "..");
// In the executable everything is bundled into these two, side by side: a URL relative to
// `import.meta.url` finds the Worker there and in the sources if a file of src/ itself says it.
const entrypoints = ["src/main.ts", "src/worker.ts"].map((file) => join(root, file));

/**
 * tproxy is started as root from any folder: no bunfig.toml (whose `preload` is code), .env,
 * tsconfig.json or package.json of that folder may reach into it. By default the first two do.
 */
export const isolation = {
  autoloadBunfig: false,
  autoloadDotenv: false,
  autoloadTsconfig: false,
  autoloadPackageJson: false,
} as const;

export interface Compilation {
  /** What `--version` says that it was built for. */
  readonly name: string;
  readonly commit: string;
  readonly outfile: string;
  /** Also decides what the bundler makes of `process.arch`. */
  readonly target: Bun.Build.CompileTarget;
  /** Bun's runtime for the target; without it Bun takes its own, or downloads it. */
  readonly executablePath?: string;
}

/** Compiles. Throws what Bun.build does: an AggregateError of what is wrong. */
export async function compile({ name, commit, ...rest }: Compilation): Promise<void> {
  await Bun.build({
    entrypoints,
    minify: true,
    // What a command imports when it runs is read when it runs.
    splitting: true,
    // Halves the start-up (`--version` from 55 to 25 ms here) for 3 MB. As an ES module: in the
    // other format main.ts may not await, and `import.meta.url` becomes the path of the sources
    // on the machine that built it, from which a Worker would then be loaded.
    bytecode: true,
    format: "esm",
    define: {
      TPROXY_COMMIT: JSON.stringify(commit),
      TPROXY_TARGET: JSON.stringify(name),
    },
    compile: { ...rest, ...isolation },
  });
}
