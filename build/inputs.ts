/**
 * Fetches what `pins.ts` names. musl and libstdc++ come from the Debian archive that apt is set up
 * for, by apt's own downloader: it needs neither root nor package lists, and serves a foreign
 * architecture as well. They are kept in `node_modules/.cache`. Bun's runtime comes from npm, as
 * `bun build --compile` gets it, and stays in Bun's cache.
 */

import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import type { ArchitectureName } from "./architecture.ts";
import { type DebianPin, pins } from "./pins.ts";

/** An input cannot be had here. The text says which one and why. */
export class InputError extends Error {}

const cache = join(import.meta.dir, "../node_modules/.cache/tproxy");
const aptHelper = "/usr/lib/apt/apt-helper";

/** The SHA-256 of bytes, in hexadecimal. */
export function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

/** A file's bytes, which nothing else refers to. */
export async function readBytes(path: string): Promise<Uint8Array> {
  return new Uint8Array(await Bun.file(path).arrayBuffer());
}

interface Ran {
  readonly success: boolean;
  readonly stdout: string;
  /** What went wrong, on one line. */
  readonly error: string;
}

/** Runs a program in the C locale. */
function run(...command: string[]): Ran {
  const { success, stdout, stderr } = Bun.spawnSync(command, {
    env: { ...process.env, LC_ALL: "C" },
    stderr: "pipe",
  });
  const lines = stderr.toString().trim().split("\n");
  const error = lines.findLast((line) => line.startsWith("E: ")) ?? lines.at(-1) ?? "";
  return { success, stdout: stdout.toString().trim(), error: error.replace(/^E: /, "").trim() };
}

/** The roots of the archives of Debian's main section that apt knows, its own order, each once. */
function archives(): string[] {
  const format = ["--no-release-info", "--format", "$(REPO_URI)", "Identifier: Packages"];
  const { success, stdout } = run("apt-get", "indextargets", ...format);
  return success ? [...new Set(stdout.split("\n").filter(Boolean))] : [];
}

function download(pin: DebianPin, folder: string): string {
  for (const program of [aptHelper, "dpkg-deb"]) {
    if (Bun.which(program) === null) {
      throw new InputError(
        `${basename(pin.package)} comes from Debian, and ${program} is not here`,
      );
    }
  }
  const target = join(folder, basename(pin.package));
  // The scratch folder is the caller's own, which apt's user could not write to.
  const options = ["-qq", "-o=APT::Sandbox::User=", "-o=Acquire::http::Timeout=10"];
  let error = "apt knows no archive";
  for (const archive of archives()) {
    const from = `${archive.replace(/\/$/, "")}/${pin.package}`;
    const hash = `SHA256:${pin.packageSha256}`;
    const fetched = run(aptHelper, ...options, "download-file", from, target, hash);
    if (fetched.success) return target;
    error = fetched.error.replace(from, basename(from));
  }
  throw new InputError(`cannot download ${basename(pin.package)}: ${error}`);
}

/** The bytes of a file of a Debian package. */
async function fromDebian(pin: DebianPin): Promise<Uint8Array> {
  const kept = join(cache, `${pin.fileSha256.slice(0, 16)}-${basename(pin.file)}`);
  if (existsSync(kept)) {
    const bytes = await readBytes(kept);
    if (sha256(bytes) === pin.fileSha256) return bytes;
  }
  mkdirSync(cache, { recursive: true });
  const scratch = mkdtempSync(join(cache, "download-"));
  try {
    const unpacked = run("dpkg-deb", "-x", download(pin, scratch), join(scratch, "root"));
    if (!unpacked.success) throw new InputError(`cannot unpack ${pin.package}: ${unpacked.error}`);
    const file = join(scratch, "root", pin.file);
    const bytes = await readBytes(file);
    if (sha256(bytes) !== pin.fileSha256) {
      throw new InputError(`${pin.file} of ${pin.package} is not the one of build/pins.ts`);
    }
    renameSync(file, kept);
    return bytes;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** musl's libc.so and libstdc++ for an architecture. Throws an `InputError`. */
export async function debianLibraries(
  architecture: ArchitectureName,
): Promise<{ libc: Uint8Array; library: Uint8Array }> {
  const { libc, library } = pins[architecture];
  return { libc: await fromDebian(libc), library: await fromDebian(library) };
}

/** What Bun calls its musl build for an architecture. */
export function muslTarget(architecture: ArchitectureName): Bun.Build.CompileTarget {
  return `bun-linux-${architecture}-musl`;
}

/** Has Bun download the runtime of a target, by compiling a script that does nothing. */
async function downloadRuntime(target: Bun.Build.CompileTarget, scratch: string): Promise<void> {
  const script = join(scratch, "empty.ts");
  await Bun.write(script, "");
  const outfile = join(scratch, "empty");
  try {
    await Bun.build({ entrypoints: [script], compile: { target, outfile } });
  } catch (error) {
    const [first] = error instanceof AggregateError ? error.errors : [error];
    throw new InputError(`cannot download Bun's musl runtime: ${(first as Error).message}`);
  }
}

/**
 * The path of Bun's musl runtime, of the version that runs this, verified. What is not in Bun's
 * cache yet is downloaded first. `scratch` is a folder for temporary files. Throws an `InputError`.
 */
export async function muslRuntime(
  architecture: ArchitectureName,
  scratch: string,
): Promise<string> {
  const pin = pins[architecture].bun[Bun.version];
  if (pin === undefined) {
    throw new InputError(`the musl runtime of Bun ${Bun.version} is not in build/pins.ts`);
  }
  const processor = architecture === "arm64" ? "aarch64" : architecture;
  const folder = run(process.execPath, "pm", "cache").stdout;
  const path = join(folder, `bun-linux-${processor}-musl-v${Bun.version}`);
  if (!existsSync(path)) await downloadRuntime(muslTarget(architecture), scratch);
  if (!existsSync(path)) throw new InputError(`Bun has not put its musl runtime at ${path}`);
  if (sha256(await readBytes(path)) !== pin) {
    throw new InputError(`${path} is not the one of build/pins.ts`);
  }
  return path;
}
