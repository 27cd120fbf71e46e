/**
 * Set-up of a machine that has npm and nothing else. `bun test/setup.ts` installs the packages of
 * bun.lock and, as root on Debian, the programs that tests use as references; with
 * `--packages-only`, the former alone. It imports built-ins only and does nothing, in a few
 * milliseconds, when nothing is missing. Without the programs their tests are skipped, by name.
 */

import { spawnSync } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Debian package -> a program, or the path of a file, that shows that it is there. */
const oracles: Readonly<Record<string, string>> = {
  "bash-completion": "/usr/share/bash-completion/bash_completion",
  "bind9-dnsutils": "dig",
  "busybox-static": "busybox",
  conntrack: "conntrack",
  curl: "curl",
  debootstrap: "debootstrap",
  dnsdist: "dnsdist",
  "dnsmasq-base": "dnsmasq",
  file: "file",
  fish: "fish",
  gcc: "gcc",
  "gcc-aarch64-linux-gnu": "aarch64-linux-gnu-gcc",
  git: "git",
  "go-mmproxy": "go-mmproxy",
  "groff-base": "groff",
  haproxy: "haproxy",
  iperf3: "iperf3",
  iproute2: "ip",
  ipset: "ipset",
  iptables: "iptables-save",
  "libc6-dev": "/usr/include/stdio.h",
  "libcap2-bin": "setcap",
  "libc6-dev-arm64-cross": "/usr/aarch64-linux-gnu/include/stdio.h",
  "libnginx-mod-stream": "/usr/lib/nginx/modules/ngx_stream_module.so",
  "musl-tools": "musl-gcc",
  nftables: "nft",
  "nginx-light": "nginx",
  prometheus: "promtool",
  python3: "python3",
  "python3-scapy": "/usr/lib/python3/dist-packages/scapy/__init__.py",
  "qemu-user-static": "qemu-aarch64-static",
  rpm: "rpmbuild",
  runc: "runc",
  shellcheck: "shellcheck",
  skopeo: "skopeo",
  socat: "socat",
  strace: "strace",
  tcpdump: "tcpdump",
  umoci: "umoci",
  unbound: "unbound",
  wrk: "wrk",
  zsh: "zsh",
};

/** Packages that would start a service of their own, now and at every boot. */
const services: Readonly<Record<string, string>> = {
  dnsdist: "dnsdist",
  "groff-base": "groff",
  haproxy: "haproxy",
  "nginx-light": "nginx",
  prometheus: "prometheus",
  unbound: "unbound",
};

/** Asked by maintainer scripts before they start anything: see invoke-rc.d(8). */
const startPolicy = "/usr/sbin/policy-rc.d";

const root = join(import.meta.dir, "..");
// Debian keeps administration programs in sbin, which is not on every PATH.
const path = `/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:${process.env.PATH ?? ""}`;

const say = (line: string) => process.stdout.write(`setup: ${line}\n`);

function isThere(probe: string): boolean {
  return probe.startsWith("/") ? existsSync(probe) : Bun.which(probe, { PATH: path }) !== null;
}

function missingOracles(): string[] {
  return Object.keys(oracles).filter((name) => !isThere(oracles[name] as string));
}

/** Runs a command in silence; what it printed is shown only when it fails. */
function run(command: string, args: string[]): boolean {
  const done = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, PATH: path, DEBIAN_FRONTEND: "noninteractive" },
  });
  if (done.status === 0) return true;
  process.stderr.write(`${done.stdout ?? ""}${done.stderr ?? ""}`);
  return false;
}

/** A no-op takes 10 ms and no network, so it is not worth guessing whether it is needed. */
function installPackages(): boolean {
  if (!existsSync(join(root, "node_modules"))) say("installing the packages of bun.lock");
  return run(process.execPath, ["install", "--frozen-lockfile", "--silent"]);
}

/** Of programs that are wanted for tests alone no service may be left running or enabled. */
function withoutServices(packages: readonly string[], install: () => boolean): void {
  const isOurs = !existsSync(startPolicy);
  if (isOurs) writeFileSync(startPolicy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    const units = install() ? packages.flatMap((name) => services[name] ?? []) : [];
    if (units.length > 0 && isThere("systemctl"))
      run("systemctl", ["disable", "--quiet", ...units]);
  } finally {
    if (isOurs) rmSync(startPolicy, { force: true });
  }
}

/** Never fails: without network the tests that need the programs are skipped. */
function installOracles(): void {
  const missing = missingOracles();
  if (missing.length === 0) return;
  if (process.getuid?.() === 0 && isThere("apt-get")) {
    say(`installing with apt-get: ${missing.join(" ")}`);
    const options = ["-qq", "-o=Acquire::Retries=3", "-o=Dpkg::Use-Pty=0"];
    run("apt-get", [...options, "update"]);
    withoutServices(missing, () =>
      run("apt-get", [...options, "install", "--yes", "--no-install-recommends", ...missing]),
    );
  }
  const left = missingOracles();
  if (left.length > 0) say(`tests that need these are skipped: ${left.join(" ")}`);
}

if (!installPackages()) process.exit(1);
if (!process.argv.includes("--packages-only")) installOracles();
