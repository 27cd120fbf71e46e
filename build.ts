/**
 * Makes the executables: `bun build.ts` writes `dist/tproxy` for this machine, `bun build.ts --all`
 * one for each target and `dist/SHA256SUMS`, which `sha256sum -c` verifies.
 *
 * The same sources, Bun and file name give the same bytes. Nearly all of the 113 MB of each is Bun.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { basename, join, relative } from "node:path";
import packageJson from "./package.json" with { type: "json" };

const root = import.meta.dir;
const dist = join(root, "dist");
// In the executable everything is bundled into these two, side by side: a URL relative to
// `import.meta.url` finds the Worker there and in the sources if a file of src/ itself says it.
const entrypoints = ["src/main.ts", "src/worker.ts"].map((file) => join(root, file));
const architectures = ["x64", "arm64"];
const targets = architectures.flatMap((arch) => [`linux-${arch}`, `linux-${arch}-musl`]);

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

/** `linux-x64`, `linux-arm64-musl`…: what the running Bun is. */
function hostTarget(): string {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  const libc = header.glibcVersionRuntime === undefined ? "-musl" : "";
  return `${process.platform}-${process.arch}${libc}`;
}

/** The short commit, `-dirty` behind it when a tracked file differs; `unknown` outside git. */
function gitCommit(): string {
  const git = Bun.spawnSync(["git", "describe", "--always", "--dirty", "--exclude=*"], {
    cwd: root,
    stderr: "ignore",
  });
  return git.success ? git.stdout.toString().trim() : "unknown";
}

async function build(target: string, outfile: string, commit: string): Promise<void> {
  const started = performance.now();
  await Bun.build({
    entrypoints,
    minify: true,
    // Halves the start-up (`--version` from 55 to 25 ms here) for 3 MB. As an ES module: in the
    // other format main.ts may not await, and `import.meta.url` becomes the path of the sources
    // on the machine that built it, from which a Worker would then be loaded.
    bytecode: true,
    format: "esm",
    define: {
      TPROXY_COMMIT: JSON.stringify(commit),
      TPROXY_TARGET: JSON.stringify(target),
    },
    compile: {
      target: `bun-${target}` as Bun.Build.CompileTarget,
      outfile,
      ...isolation,
    },
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const megabytes = (Bun.file(outfile).size / 1e6).toFixed(0);
  report(`${relative(root, outfile)}: ${target}, ${commit}, ${megabytes} MB in ${seconds} s`);
}

/** `dist/SHA256SUMS` in the form of sha256sum(1), with bare file names. */
async function writeSums(files: string[]): Promise<void> {
  const lines: string[] = [];
  for (const file of files) {
    const hash = new Bun.CryptoHasher("sha256");
    for await (const chunk of Bun.file(file).stream()) hash.update(chunk);
    lines.push(`${hash.digest("hex")}  ${basename(file)}\n`);
  }
  await Bun.write(join(dist, "SHA256SUMS"), lines.join(""));
  report("dist/SHA256SUMS");
}

async function main(argv: string[]): Promise<void> {
  const unknown = argv.find((argument) => argument !== "--all");
  if (unknown !== undefined) throw new Error(`unknown argument "${unknown}": try --all`);
  if (!Bun.semver.satisfies(Bun.version, packageJson.engines.bun)) {
    throw new Error(`Bun ${Bun.version} is too old: tproxy needs ${packageJson.engines.bun}`);
  }
  const commit = gitCommit();
  if (!argv.includes("--all")) return build(hostTarget(), join(dist, "tproxy"), commit);
  const files = targets.map((target) => join(dist, `tproxy-${target}`));
  for (const [index, target] of targets.entries()) {
    await build(target, files[index] as string, commit);
  }
  await writeSums(files);
}

const report = (line: string) => process.stdout.write(`${line}\n`);

async function run(): Promise<void> {
  // Bun writes the executable into the working directory first; one of our own leaves nothing.
  mkdirSync(dist, { recursive: true });
  const scratch = mkdtempSync(join(dist, ".build-"));
  process.chdir(scratch);
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    for (const problem of error instanceof AggregateError ? error.errors : [error]) {
      process.stderr.write(`build: ${String(problem).replace(/^Error: /, "")}\n`);
    }
    process.exitCode = 1;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

if (import.meta.main) await run();
