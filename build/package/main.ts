/**
 * Makes the packages in `dist/packages`, of the static executables that `bun build.ts --all` has
 * made: .deb, .rpm where rpmbuild is there, tarball, OCI image, SBOM and SHA256SUMS. Others than
 * these executables are given as `x64=FILE`, another release as `--release VERSION`. The same
 * executables and sources give the same bytes.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import packageJson from "../../package.json" with { type: "json" };
import { readBytes, sha256 } from "../inputs.ts";
import { makeTar } from "./archive.ts";
import { makeSbom } from "./components.ts";
import { type Executable, makeContents } from "./contents.ts";
import { makeDeb } from "./deb.ts";
import { makeImage } from "./oci.ts";
import { makeRpm } from "./rpm.ts";

const root = join(import.meta.dir, "../..");
const folder = join(root, "dist/packages");

const report = (line: string) => process.stdout.write(`${line}\n`);

/** When the commit was made, in seconds since 1970; 0 outside git. */
function commitTime(): number {
  const git = Bun.spawnSync(["git", "log", "-1", "--format=%ct"], { cwd: root, stderr: "ignore" });
  return git.success ? Number(git.stdout.toString()) : 0;
}

async function readExecutable(argument: string): Promise<Executable> {
  const [, architecture, path] = /^(x64|arm64)=(.+)$/.exec(argument) ?? [];
  if (path === undefined) throw new Error(`"${argument}" is not x64=FILE or arm64=FILE`);
  const bytes = await readBytes(path).catch(() => {
    throw new Error(`${path} cannot be read: make it with "bun run build --all"`);
  });
  // The name of what it was built for is in its bundle.
  if (!Buffer.from(bytes).includes(`linux-${architecture}-static`)) {
    throw new Error(`${path} is not a static executable for ${architecture}`);
  }
  return { bytes, sha256: sha256(bytes), architecture: architecture as "x64" | "arm64" };
}

/** The tarball: what the others have under usr/, without usr/. */
async function makeTarball(executable: Executable, name: string, time: number) {
  const contents = await makeContents(executable, "site-functions");
  const files = contents.map((file) => ({ ...file, path: file.path.replace(/^usr\//, "") }));
  return gzipSync(makeTar(files, time, `${name}/`));
}

/** Writes all packages for the executables; their names. */
async function makePackages(
  executables: readonly Executable[],
  version: string,
  scratch: string,
): Promise<string[]> {
  const time = commitTime();
  const names: string[] = [];
  const write = async (name: string, bytes: Uint8Array | string) => {
    await Bun.write(join(folder, name), bytes);
    names.push(name);
  };
  for (const executable of executables) {
    const { architecture } = executable;
    const base = `tproxy-${version}-linux-${architecture}`;
    const forDebian = await makeContents(executable, "vendor-completions");
    const deb = makeDeb(forDebian, version, architecture, time);
    await write(deb.name, deb.bytes);
    const others = await makeContents(executable, "site-functions");
    const rpm = makeRpm(others, version, architecture, time, folder, scratch);
    if (rpm === undefined) report("no .rpm: rpmbuild is not here");
    else names.push(rpm);
    await write(`${base}.tar.gz`, await makeTarball(executable, base, time));
    await write(`${base}.cdx.json`, makeSbom(executable.sha256, architecture));
  }
  await write(`tproxy-${version}.oci.tar`, makeImage(executables, version, time));
  return names;
}

async function main(argv: readonly string[], scratch: string): Promise<void> {
  const at = argv.indexOf("--release");
  const version = at < 0 ? packageJson.version : (argv[at + 1] ?? "");
  if (!/^\d+(\.\d+)+$/.test(version)) throw new Error(`"${version}" is not a release like 1.2.3`);
  const given = at < 0 ? argv : argv.toSpliced(at, 2);
  const paths = ["x64", "arm64"].map(
    (name) => `${name}=${join(root, `dist/tproxy-linux-${name}`)}`,
  );
  const executables: Executable[] = [];
  for (const argument of given.length > 0 ? given : paths) {
    executables.push(await readExecutable(argument));
  }
  const names = await makePackages(executables, version, scratch);
  const sums: string[] = [];
  for (const name of names) sums.push(`${sha256(await readBytes(join(folder, name)))}  ${name}\n`);
  await Bun.write(join(folder, "SHA256SUMS"), sums.join(""));
  for (const name of [...names, "SHA256SUMS"]) report(`dist/packages/${name}`);
}

mkdirSync(folder, { recursive: true });
const scratch = mkdtempSync(join(folder, ".package-"));
try {
  await main(process.argv.slice(2), scratch);
} catch (error) {
  process.stderr.write(`package: ${String(error).replace(/^Error: /, "")}\n`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
