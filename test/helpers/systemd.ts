/**
 * systemd as process 1 of namespaces of its own: a mount, network, process, IPC, UTS and control
 * group namespace, with the units that are given and none of the machine's.
 */

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { which } from "./tools.ts";
import { eventually } from "./tproxy.ts";

/** Targets that units depend on by default; the machine's would start what belongs to it. */
const targets = ["sysinit", "basic", "shutdown", "network-online", "multi-user", "sockets", "test"];

/**
 * Nothing of it may write to the machine: /proc/sys is read-only (systemd-sysctl), /run is new, and
 * what is mounted here is seen here alone.
 */
const boot = `
set -eu
mount --make-rprivate /
umount -l /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp /etc/passwd /etc/group /run
echo 'tproxy:x:60999:60999::/:/usr/sbin/nologin' >> /run/passwd
echo 'tproxy:x:60999:' >> /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
ip link set lo up
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$1" \\
  SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \\
  ${which("systemd") ?? "/usr/lib/systemd/systemd"} --system --unit=test.target \\
  --log-target=console --show-status=no
`;

/** Where control groups of version 2 are; undefined without them. */
function cgroupRoot(): string | undefined {
  const mounts = readFileSync("/proc/self/mounts", "latin1").split("\n");
  return mounts.map((line) => line.split(" ")).find(([, , type]) => type === "cgroup2")?.[1];
}

export class Systemd {
  /** A folder that processes inside and outside see, for all users. */
  readonly folder: string;
  private readonly group: string;
  private readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  private log = "";
  private pid = 0;

  private constructor(units: Readonly<Record<string, string>>) {
    this.folder = mkdtempSync(join(tmpdir(), "tproxy-systemd-"));
    Bun.spawnSync(["chmod", "755", this.folder]);
    const place = join(this.folder, "units");
    mkdirSync(place);
    for (const name of targets) {
      writeFileSync(join(place, `${name}.target`), "[Unit]\nDefaultDependencies=no\n");
    }
    for (const [name, text] of Object.entries(units)) writeFileSync(join(place, name), text);
    this.group = join(cgroupRoot() ?? "", `tproxy-test-${process.pid}`);
    mkdirSync(this.group);
    const enter = `echo 0 > '${this.group}/cgroup.procs'; exec "$@"`;
    const spaces = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"];
    this.child = Bun.spawn({
      cmd: [
        ...["sh", "-c", enter, "sh", ...spaces, "--fork", "--kill-child"],
        ...["sh", "-c", boot, "sh", place],
      ],
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) void this.read(stream);
  }

  /** Boots with these units, by name. */
  static async boot(units: Readonly<Record<string, string>>): Promise<Systemd> {
    const systemd = new Systemd(units);
    try {
      await eventually("systemd is up", () => systemd.isUp());
    } catch (error) {
      await systemd.close();
      throw new Error(`${error}: ${systemd.log}`);
    }
    return systemd;
  }

  /** Runs a command inside, to its end. */
  run(...command: string[]): { status: number; output: string } {
    const { exitCode, stdout, stderr } = Bun.spawnSync(this.inside(command), { stderr: "pipe" });
    return { status: exitCode, output: `${stdout}${stderr}` };
  }

  /** Starts a command inside. */
  spawn(...command: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
    return Bun.spawn(this.inside(command), { stdio: ["ignore", "pipe", "pipe"] });
  }

  /** A property of a unit. */
  property(unit: string, name: string): string {
    return this.run("systemctl", "show", "--value", "--property", name, unit).output.trim();
  }

  /** What systemd and its units have printed. */
  get output(): string {
    return this.log;
  }

  async close(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
    for (let tries = 0; existsSync(this.group); tries++) {
      // Processes that were killed may be there for a moment, and groups within go first.
      Bun.spawnSync(["find", this.group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
      if (tries > 200) throw new Error(`${this.group} is still in use`);
      await Bun.sleep(20);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  private inside(command: readonly string[]): string[] {
    const spaces = ["-m", "-n", "-p", "-u", "-i", "-C"];
    return ["nsenter", "-t", String(this.pid), ...spaces, ...command];
  }

  private isUp(): boolean {
    const { pid } = this.child;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim();
    this.pid = Number(children.split(" ")[0] ?? 0);
    return this.pid > 0 && this.run("systemctl", "is-system-running").output.trim() === "running";
  }

  private async read(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) this.log += decoder.decode(chunk, { stream: true });
  }
}

/** Whether systemd can be booted here. */
export const canBoot =
  which("systemd") !== undefined && process.getuid?.() === 0 && cgroupRoot() !== undefined;
