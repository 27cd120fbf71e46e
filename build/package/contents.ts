/** What every package holds besides the executable: the same files, at the places of its system. */

import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { gzipSync } from "node:zlib";
import { configurationSchema } from "../../src/config/json-schema.ts";
import { printJson } from "../../src/net/printable.ts";
import type { PackedFile } from "./archive.ts";
import { makeCopyright, makeSbom } from "./components.ts";
import { instanceUnit } from "./instance-unit.ts";
import { makeManPages } from "./man.ts";

const root = join(import.meta.dir, "../..");

/** A text of the repository. */
const textOf = (path: string): string => readFileSync(join(root, path), "utf8");

/** A text of `files/`. */
export const fileText = (name: string): string => textOf(`build/package/files/${name}`);

/** The paths of all files in a folder of the repository, sorted. */
function filesIn(folder: string): string[] {
  const entries = readdirSync(join(root, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => relative(root, join(parentPath, name)))
    .sort();
}

export interface Executable {
  readonly bytes: Uint8Array;
  readonly sha256: string;
  /** As this project names it. */
  readonly architecture: "x64" | "arm64";
}

/** The completion script for a shell, as the sources print it. */
function completion(shell: string): Uint8Array {
  const command = [process.execPath, join(root, "src/main.ts"), "completion", shell];
  const { success, stdout, stderr } = Bun.spawnSync(command);
  if (!success) throw new Error(`no completion for ${shell}: ${stderr.toString().trim()}`);
  return stdout;
}

/** The files of a package. Where zsh looks for completions differs between distributions. */
export async function makeContents(
  executable: Executable,
  zshFolder: "vendor-completions" | "site-functions",
): Promise<PackedFile[]> {
  const file = (path: string, content: string | Uint8Array): PackedFile => ({
    path,
    bytes: typeof content === "string" ? Buffer.from(content) : content,
    mode: 0o644,
  });
  const doc = (name: string, content: string | Uint8Array) =>
    file(`usr/share/doc/tproxy/${name}`, content);
  const pages = await makeManPages();
  return [
    { path: "usr/bin/tproxy", bytes: executable.bytes, mode: 0o755 },
    ...pages.map(({ name, text }) =>
      file(`usr/share/man/man${name.at(-1)}/${name}.gz`, gzipSync(text, { level: 9 })),
    ),
    file("usr/share/bash-completion/completions/tproxy", completion("bash")),
    file("usr/share/fish/vendor_completions.d/tproxy.fish", completion("fish")),
    file(`usr/share/zsh/${zshFolder}/_tproxy`, completion("zsh")),
    file("usr/lib/systemd/system/tproxy.service", fileText("tproxy.service")),
    file("usr/lib/systemd/system/tproxy@.service", instanceUnit(fileText("tproxy.service"))),
    file("usr/lib/sysusers.d/tproxy.conf", fileText("sysusers.conf")),
    { ...file("etc/tproxy/tproxy.toml", fileText("tproxy.toml")), isConfiguration: true },
    { ...file("etc/logrotate.d/tproxy", fileText("logrotate")), isConfiguration: true },
    file("usr/share/tproxy/alerts.yml", fileText("alerts.yml")),
    file("usr/share/tproxy/grafana.json", fileText("grafana.json")),
    file("usr/share/tproxy/tproxy.schema.json", `${printJson(configurationSchema(), 2)}\n`),
    doc("copyright", makeCopyright(textOf("LICENSE"))),
    doc("README.md", textOf("README.md")),
    ...["docs", "examples"].flatMap(filesIn).map((path) => doc(path, textOf(path))),
    doc("changelog.gz", gzipSync(textOf("CHANGELOG.md"), { level: 9 })),
    doc("tproxy.cdx.json", makeSbom(executable.sha256, executable.architecture)),
  ];
}
