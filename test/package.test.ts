/** The packages: made of the built executable, and used as their systems use them. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { fileText } from "../build/package/contents.ts";
import { makeDeb } from "../build/package/deb.ts";
import { instanceUnit } from "../build/package/instance-unit.ts";
import { makeManPages } from "../build/package/man.ts";
import packageJson from "../package.json" with { type: "json" };
import { commands } from "../src/cli/commands.ts";
import { configurationSchema } from "../src/config/json-schema.ts";
import { canUnshare } from "./helpers/netns.ts";
import { asStatic, executable, isRoot, isStatic } from "./helpers/static-file.ts";
import { testWith } from "./helpers/tools.ts";

const root = join(import.meta.dir, "..");
const packages = join(root, "dist/packages");
const architecture = process.arch as "x64" | "arm64";
const [debian, rpm] = architecture === "x64" ? ["amd64", "x86_64"] : ["arm64", "aarch64"];
const release = packageJson.version;
const deb = join(packages, `tproxy_${release}_${debian}.deb`);
let folder = "";

function run(command: readonly string[], cwd = root) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command], { cwd, stderr: "pipe" });
  return { status: exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

const make = (...args: string[]) => run([process.execPath, "build/package/main.ts", ...args]);

/** What a command prints; it must end well. */
function output(...command: string[]): string {
  const { status, stdout, stderr } = run(command);
  if (status !== 0) throw new Error(`${command.join(" ")}: ${stderr}${stdout}`);
  return stdout;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tproxy-package-"));
  if (!isStatic) return;
  await rm(packages, { recursive: true, force: true });
  expect(make(`${architecture}=${executable}`)).toMatchObject({ status: 0, stderr: "" });
}, 180_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("bad input is one line:", () => {
  test.each([
    [["x86=dist/tproxy"], '"x86=dist/tproxy" is not x64=FILE or arm64=FILE'],
    [["x64=README.md"], "README.md is not a static executable for x64"],
    [
      ["x64=/nonexistent/tproxy"],
      '/nonexistent/tproxy cannot be read: make it with "bun run build --all"',
    ],
    [["--release", "new"], '"new" is not a release like 1.2.3'],
  ])("%p", (args, problem) => {
    const refused = { status: 1, stdout: "", stderr: `package: ${problem}\n` };
    expect(make(...args)).toEqual(refused);
  });
});

describe("man pages", () => {
  test("there is one for each command, with every option of its help", async () => {
    const pages = new Map((await makeManPages()).map(({ name, text }) => [name, text]));
    expect([...pages.keys()]).toEqual([
      "tproxy.1",
      ...[...commands.keys()].map((name) => `tproxy-${name}.1`),
      "tproxy.toml.5",
    ]);
    const options = output(executable, "listen", "--help").match(/^ +--[a-z-]+/gm) ?? [];
    expect(options.length).toBeGreaterThan(5);
    for (const option of options) {
      expect(pages.get("tproxy-listen.1")).toContain(option.trim().replaceAll("-", "\\-"));
    }
  });

  test("that of the file has every setting of the schema, with what it takes", async () => {
    const pages = new Map((await makeManPages()).map(({ name, text }) => [name, text]));
    const page = String(pages.get("tproxy.toml.5"));
    const names = (schema: object): string[] =>
      Object.entries(schema).flatMap(([key, inner]): string[] => {
        const own = key === "properties" ? Object.keys(inner as object) : [];
        return typeof inner === "object" && inner !== null ? [...own, ...names(inner)] : own;
      });
    const all = new Set(names(configurationSchema()));
    expect(all.size).toBeGreaterThan(80);
    for (const name of all) expect(page).toContain(name.replaceAll("-", "\\-"));
    expect(page).toContain(".SS [[pool.upstream]]\n");
    expect(page).toContain(".SS [service.capture]\n");
    expect(page).toContain('.BR install " = \\(dqauto\\(dq | \\(dqnone\\(dq"\n');
  });

  testWith(["groff"])("groff finds nothing wrong with them", async () => {
    for (const { name, text } of await makeManPages()) {
      await Bun.write(join(folder, name), text);
      const groff = ["groff", "-man", "-ww", "-z", "-Tutf8", join(folder, name)];
      expect(run(groff)).toEqual({ status: 0, stdout: "", stderr: "" });
    }
  });
});

describe("the service", () => {
  test("its configuration is valid, and serves nothing until somebody has changed it", () => {
    const file = join(root, "build/package/files/tproxy.toml");
    expect(run([executable, "check", "-c", file])).toMatchObject({ status: 0, stderr: "" });
    const { status, stderr } = run([executable, "run", "-c", file]);
    expect([status, stderr]).toEqual([0, expect.stringContaining("no service is enabled")]);
  });

  testWith(["systemd-analyze", "man"])("systemd finds nothing wrong with its units", async () => {
    // A unit names a program that exists, and here it is built.
    const units = join(folder, "units");
    await mkdir(units);
    const unit = fileText("tproxy.service");
    const text = { "tproxy.service": unit, "tproxy@here.service": instanceUnit(unit) };
    for (const [name, content] of Object.entries(text)) {
      const readable = content.replaceAll("/usr/bin/tproxy", executable);
      await Bun.write(join(units, name), readable.replace(/^Documentation=.*\n/m, ""));
    }
    for (const name of Object.keys(text)) {
      const verified = run(["systemd-analyze", "verify", join(units, name)]);
      expect(verified).toEqual({ status: 0, stdout: "", stderr: "" });
    }
    expect(instanceUnit(unit)).toContain("--config /etc/tproxy/%i.toml\n");
    expect(instanceUnit(unit).match(/%i/g)).toHaveLength(5);
  });

  testWith(["systemd-sysusers"])("its user is made by sysusers", async () => {
    const tree = join(folder, "sysusers");
    await Bun.write(join(tree, "usr/lib/sysusers.d/tproxy.conf"), fileText("sysusers.conf"));
    const made = run(["systemd-sysusers", `--root=${tree}`, "--dry-run", "tproxy.conf"]);
    expect(made.status).toBe(0);
    expect(made.stderr + made.stdout).toContain("Creating user 'tproxy' (Transparent proxy)");
  });

  test.each(["postinst", "prerm", "postrm"])("%s is a shell script", (name) => {
    const { status, stderr } = run(["sh", "-n", join(root, "build/package/files", name)]);
    expect([status, stderr]).toEqual([0, ""]);
  });
});

describe.skipIf(!isStatic)("of the built executable", () => {
  testWith(["sha256sum"])("SHA256SUMS is right, and nothing else is left", () => {
    const checked = run(["sha256sum", "--strict", "-c", "SHA256SUMS"], packages);
    expect(checked).toMatchObject({ status: 0, stderr: "" });
    expect(checked.stdout.trim().split("\n").length).toBe(readdirSync(packages).length - 1);
  });

  test("the SBOM names what is inside, with the executable's hash", async () => {
    const name = `tproxy-${release}-linux-${architecture}.cdx.json`;
    const sbom = await Bun.file(join(packages, name)).json();
    expect(sbom).toMatchObject({ bomFormat: "CycloneDX", specVersion: "1.5" });
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(executable).bytes());
    expect(sbom.metadata.component.hashes[0].content).toBe(hash.digest("hex"));
    const names = sbom.components.map((each: { name: string }) => each.name);
    for (const part of ["Bun", "musl", "libstdc++", ...Object.keys(packageJson.dependencies)]) {
      expect(names).toContain(part);
    }
    expect(new Set(names).size).toBe(names.length);
    // What they need in turn is inside as well.
    const bundled = new Set(Object.keys(packageJson.dependencies));
    for (const name of bundled) {
      const file = Bun.file(join(root, "node_modules", name, "package.json"));
      const { version, dependencies = {} } = await file.json();
      expect(sbom.components).toContainEqual(expect.objectContaining({ name, version }));
      for (const each of Object.keys(dependencies)) bundled.add(each);
    }
  });

  testWith(["tar"])("the tarball has the executable and its documents", async () => {
    const name = `tproxy-${release}-linux-${architecture}`;
    output("tar", "xzf", join(packages, `${name}.tar.gz`), "-C", folder);
    const version = output(join(folder, name, "bin/tproxy"), "--version");
    expect(version).toBe(output(executable, "--version"));
    const page = await Bun.file(join(folder, name, "share/man/man1/tproxy.1.gz")).bytes();
    expect(gunzipSync(page).toString()).toStartWith(".TH TPROXY 1");
    const documents = join(folder, name, "share/doc/tproxy");
    const readme = await Bun.file(join(documents, "README.md")).text();
    const found = readme.matchAll(/\]\(((?:docs|examples)\/[^)#]+)/g);
    const links = [...found].map(([, link = ""]) => link);
    expect(links.length).toBeGreaterThan(0);
    expect(links.filter((link) => !existsSync(join(documents, link)))).toEqual([]);
  });

  testWith(["rpm", "rpmbuild"])("rpm reads the .rpm, and takes it in", async () => {
    const file = join(packages, `tproxy-${release}-1.${rpm}.rpm`);
    expect(output("rpm", "-K", file)).toContain("digests OK");
    expect(output("rpm", "-qp", "--requires", file)).not.toMatch(/^(?!rpmlib|config|\/bin\/sh)./m);
    const database = join(folder, "rpm");
    await mkdir(database);
    const to = ["--dbpath", join(database, "db"), "--root", database, "--noscripts", "--nodeps"];
    output("rpm", ...to, "-i", file);
    expect(output("rpm", ...to, "-V", "tproxy")).toBe("");
    expect(existsSync(join(database, "etc/tproxy/tproxy.toml"))).toBe(true);
    output("rpm", ...to, "-e", "tproxy");
    expect(existsSync(join(database, "usr/bin/tproxy"))).toBe(false);
  });

  const image = () => `oci:${join(folder, "oci")}:${release}`;

  testWith(["tar", "skopeo", "umoci", "runc"], { root: isRoot })(
    "the image holds the one file, and a container runtime runs it",
    async () => {
      await mkdir(join(folder, "oci"));
      const archive = join(packages, `tproxy-${release}.oci.tar`);
      output("tar", "xf", archive, "-C", join(folder, "oci"));
      const inspected = JSON.parse(output("skopeo", "inspect", image()));
      expect(inspected).toMatchObject({ Architecture: debian, Os: "linux" });
      // A copy verifies every hash.
      output("skopeo", "copy", `oci-archive:${archive}`, `dir:${join(folder, "copy")}`);
      const bundle = join(folder, "bundle");
      output("umoci", "unpack", "--image", image().replace("oci:", ""), bundle);
      expect(readdirSync(join(bundle, "rootfs"))).toEqual(["tproxy"]);
      const config = Bun.file(join(bundle, "config.json"));
      const settings = await config.json();
      expect(settings.process.args).toEqual(["/tproxy"]);
      settings.process.terminal = false;
      settings.process.args.push("--version");
      await Bun.write(config, JSON.stringify(settings));
      const id = `tproxy-test-${process.pid}`;
      const state = join(folder, "runc");
      expect(output("runc", "--root", state, "run", "--bundle", bundle, id)).toBe(
        output(executable, "--version"),
      );
    },
    240_000,
  );

  testWith(["dpkg-deb"])("the .deb needs no other package", () => {
    expect(output("dpkg-deb", "--field", deb, "Depends", "Pre-Depends")).toBe("");
    expect(output("dpkg-deb", "--field", deb, "Architecture").trim()).toBe(debian as string);
  });
});

/** The Debian archive of this machine, or undefined. */
function archive(): string | undefined {
  const format = ["--no-release-info", "--format", "$(REPO_URI)", "Identifier: Packages"];
  const { status, stdout } = run(["sh", "-c", 'apt-get indextargets "$@"', "sh", ...format]);
  return status === 0 ? stdout.split("\n").find(Boolean) : undefined;
}

/** What lies in the chroot, but for what dpkg writes down. */
const listing = (chroot: string) =>
  output(
    "find",
    chroot,
    "-path",
    "*/var/lib/dpkg",
    "-prune",
    "-o",
    "-path",
    "*/var/log",
    "-prune",
    "-o",
    "-print",
  )
    .split("\n")
    .toSorted();

testWith(["debootstrap", "unshare"], { ...asStatic, root: isRoot, namespaces: canUnshare })(
  "the .deb is installed, upgraded, removed and purged in a Debian of its own",
  async () => {
    const chroot = join(folder, "debian");
    // Unpacked only: that takes no second stage, and nothing is mounted.
    const first = ["debootstrap", "--foreign", "--variant=minbase", "bookworm", chroot];
    output(...first, archive() ?? "");
    await Bun.write(join(chroot, "var/lib/dpkg/status"), "");
    const before = listing(chroot);
    const inside = (...command: string[]) => output("chroot", chroot, ...command);
    const dpkg = (...args: string[]) => inside("dpkg", "--force-confold", ...args);
    await Bun.write(join(chroot, "new.deb"), Bun.file(deb));
    dpkg("-i", "/new.deb");
    expect(inside("tproxy", "--version")).toBe(output(executable, "--version"));
    expect(inside("dpkg", "--verify", "tproxy")).toBe("");

    const configuration = join(chroot, "etc/tproxy/tproxy.toml");
    await Bun.write(configuration, "# mine\n");
    const bytes = Buffer.from("#!/bin/sh\necho newer\n");
    const conf = { path: "etc/tproxy/tproxy.toml", mode: 0o644, isConfiguration: true };
    const files = [
      { path: "usr/bin/tproxy", mode: 0o755, bytes },
      { ...conf, bytes: Buffer.from("# theirs\n") },
    ];
    await Bun.write(join(chroot, "new.deb"), makeDeb(files, "99.0", architecture, 0).bytes);
    dpkg("-i", "/new.deb");
    expect(inside("tproxy", "--version")).toBe("newer\n");
    expect(await Bun.file(configuration).text()).toBe("# mine\n");
    expect(existsSync(join(chroot, "usr/share/man/man1/tproxy.1.gz"))).toBe(false);

    dpkg("--remove", "tproxy");
    expect(existsSync(join(chroot, "usr/bin/tproxy"))).toBe(false);
    expect(existsSync(configuration)).toBe(true);
    dpkg("--purge", "tproxy");
    await rm(join(chroot, "new.deb"));
    // The service's user stays, as files that it has made elsewhere may.
    const users = /\/etc\/(\.pwd\.lock|(passwd|group|g?shadow)-?)$/;
    const left = listing(chroot).filter((path) => !before.includes(path) && !users.test(path));
    expect(left).toEqual([]);
  },
  300_000,
);
