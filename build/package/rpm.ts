/** An .rpm, made by rpmbuild(8) of files that are there already. */

import { mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import type { PackedFile } from "./archive.ts";
import { allLicences } from "./components.ts";
import { fileText } from "./contents.ts";

const architectures = { x64: "x86_64", arm64: "aarch64" } as const;

// Nothing is compiled, stripped, compressed or looked through for dependencies. The same files give
// the same bytes: no host, no time of the build.
const macros = [
  "_build_id_links none",
  "__os_install_post %{nil}",
  "debug_package %{nil}",
  "_binary_payload w6.gzdio",
  "_buildhost localhost",
  "use_source_date_epoch_as_buildtime 1",
  "clamp_mtime_to_source_date_epoch 1",
];

const body = (script: string) => script.split("\n").slice(1).join("\n").trim();

function spec(files: readonly PackedFile[], version: string): string {
  return `${[
    `Name: tproxy\nVersion: ${version}\nRelease: 1`,
    `Summary: ${packageJson.description}\nLicense: ${allLicences()}\nAutoReqProv: no`,
    "%description",
    "Binds to addresses that the host does not own, accepts connections to any address,",
    "forwards TCP and UDP to backends that see the client's own address, and makes the policy",
    "routing and the firewall rules for that. The executable is static.",
    `%post\nset -- configure "$([ "$1" = 1 ] || echo old)"\n${body(fileText("postinst"))}`,
    `%preun\n[ "$1" = 0 ] || exit 0\nset -- remove\n${body(fileText("prerm"))}`,
    `%postun\n[ "$1" = 0 ] || exit 0\nset -- purge\n${body(fileText("postrm"))}`,
    "%files\n%defattr(-,root,root)",
    ...files.map(({ path, mode, isConfiguration }) => {
      const kind = isConfiguration ? "%config(noreplace) " : "";
      return `${kind}%attr(0${mode.toString(8)},root,root) /${path}`;
    }),
  ].join("\n")}\n`;
}

/** `tproxy-0.1.0-1.x86_64.rpm` in `folder`; undefined where there is no rpmbuild. */
export function makeRpm(
  files: readonly PackedFile[],
  version: string,
  architecture: "x64" | "arm64",
  time: number,
  folder: string,
  scratch: string,
): string | undefined {
  if (Bun.which("rpmbuild") === null) return undefined;
  const tree = join(scratch, `rpm-${architecture}`);
  const buildRoot = join(tree, "root");
  for (const { path, bytes, mode } of files) {
    mkdirSync(dirname(join(buildRoot, path)), { recursive: true });
    writeFileSync(join(buildRoot, path), bytes, { mode });
  }
  const specFile = join(tree, "tproxy.spec");
  writeFileSync(specFile, spec(files, version));
  const target = architectures[architecture];
  const defines = [...macros, `_topdir ${tree}`].flatMap((macro) => ["--define", macro]);
  const options = ["-bb", "--quiet", "--target", `${target}-linux`, "--buildroot", buildRoot];
  const { success, stderr } = Bun.spawnSync(["rpmbuild", ...options, ...defines, specFile], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(time) },
  });
  if (!success) throw new Error(`rpmbuild: ${stderr.toString().trim().split("\n").at(-1)}`);
  const made = join(tree, "RPMS", target);
  const name = readdirSync(made)[0] as string;
  renameSync(join(made, name), join(folder, name));
  return name;
}
