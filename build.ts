/**
 * Makes the executables: `bun build.ts` writes `dist/tproxy` for this machine, `bun build.ts --all`
 * one for each architecture and `dist/SHA256SUMS`, which `sha256sum -c` verifies.
 *
 * They are static: one file that needs nothing on the machine. Where what they are linked from
 * (`build/pins.ts`) cannot be had, `dist/tproxy` is the plain, dynamic executable instead, and one
 * line says so; `--static` fails there. `--dynamic` makes the plain ones, whose libraries a
 * debugger and a profiler see. The same inputs give the same bytes. Nearly all of the 111 MB of
 * each is Bun.
 */

import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { basename, join, relative } from "node:path";
import type { ArchitectureName } from "./build/architecture.ts";
import { compile } from "./build/compile.ts";
import { LinkError } from "./build/elf.ts";
import {
  debianLibraries,
  InputError,
  muslRuntime,
  muslTarget,
  readBytes,
  sha256,
} from "./build/inputs.ts";
import { linkStatic } from "./build/link.ts";
import packageJson from "./package.json" with { type: "json" };

const root = import.meta.dir;
const dist = join(root, "dist");
const architectures: readonly ArchitectureName[] = ["x64", "arm64"];
const options = ["--all", "--dynamic", "--static"];

const report = (line: string) => process.stdout.write(`${line}\n`);

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

/** One build: its scratch folder, which is also the working directory, and its commit. */
class Builder {
  private readonly commit = gitCommit();

  constructor(private readonly scratch: string) {}

  async dynamic(name: string, outfile: string): Promise<void> {
    const started = performance.now();
    const target = `bun-${name}` as Bun.Build.CompileTarget;
    await compile({ name, commit: this.commit, outfile, target });
    this.done(outfile, name, started);
  }

  /** Throws an `InputError` or a `LinkError`, without having touched `outfile`. */
  async static(architecture: ArchitectureName, outfile: string): Promise<void> {
    const name = `linux-${architecture}-static`;
    const libraries = await debianLibraries(architecture);
    const executablePath = await muslRuntime(architecture, this.scratch);
    const started = performance.now();
    // The name is in the file; it is the same for all, so that the same sources give the same
    // bytes.
    const plain = join(this.scratch, "tproxy");
    const target = muslTarget(architecture);
    await compile({ name, commit: this.commit, outfile: plain, target, executablePath });
    const linked = linkStatic({ app: await readBytes(plain), ...libraries });
    await Bun.write(plain, linked);
    chmodSync(plain, 0o755);
    // In one step: what runs the old file goes on with it.
    renameSync(plain, outfile);
    this.done(outfile, name, started);
  }

  private done(outfile: string, name: string, started: number): void {
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const megabytes = (Bun.file(outfile).size / 1e6).toFixed(0);
    report(`${relative(root, outfile)}: ${name}, ${this.commit}, ${megabytes} MB in ${seconds} s`);
  }
}

/** `dist/SHA256SUMS` in the form of sha256sum(1), with bare file names. */
async function writeSums(files: readonly string[]): Promise<void> {
  const lines: string[] = [];
  for (const file of files) lines.push(`${sha256(await readBytes(file))}  ${basename(file)}\n`);
  await Bun.write(join(dist, "SHA256SUMS"), lines.join(""));
  report("dist/SHA256SUMS");
}

/** `dist/tproxy`: static where that can be made, or where nothing else is wanted. */
async function buildForThisMachine(builder: Builder, mustBeStatic: boolean): Promise<void> {
  const outfile = join(dist, "tproxy");
  const architecture = architectures.find((name) => name === process.arch);
  try {
    if (architecture === undefined) throw new InputError(`no static build for ${process.arch}`);
    await builder.static(architecture, outfile);
  } catch (error) {
    if (mustBeStatic || !(error instanceof InputError || error instanceof LinkError)) throw error;
    report(`not static, so it needs the C library of a machine like this one: ${error.message}`);
    await builder.dynamic(hostTarget(), outfile);
  }
}

async function main(argv: readonly string[], scratch: string): Promise<void> {
  const unknown = argv.find((argument) => !options.includes(argument));
  if (unknown !== undefined) {
    throw new Error(`unknown argument "${unknown}": there are ${options.join(", ")}`);
  }
  const [all, dynamic, mustBeStatic] = options.map((option) => argv.includes(option));
  if (dynamic && mustBeStatic) throw new Error("--dynamic and --static exclude each other");
  if (!Bun.semver.satisfies(Bun.version, packageJson.engines.bun)) {
    throw new Error(`Bun ${Bun.version} is too old: tproxy needs ${packageJson.engines.bun}`);
  }
  const builder = new Builder(scratch);
  if (!all && dynamic) return builder.dynamic(hostTarget(), join(dist, "tproxy"));
  if (!all) return buildForThisMachine(builder, mustBeStatic === true);
  const suffix = dynamic ? "-glibc" : "";
  const files = architectures.map((name) => join(dist, `tproxy-linux-${name}${suffix}`));
  for (const [index, architecture] of architectures.entries()) {
    const file = files[index] as string;
    await (dynamic
      ? builder.dynamic(`linux-${architecture}`, file)
      : builder.static(architecture, file));
  }
  await writeSums(files);
}

async function run(): Promise<void> {
  // Bun writes the executable into the working directory first; one of our own leaves nothing.
  mkdirSync(dist, { recursive: true });
  const scratch = mkdtempSync(join(dist, ".build-"));
  process.chdir(scratch);
  try {
    await main(process.argv.slice(2), scratch);
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
