/** A running `tproxy run` that is upgraded, for tests of what is built. */

import { copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanups } from "./forward.ts";
import { executable } from "./static-file.ts";
import { eventually, type Running, start } from "./tproxy.ts";

/** Sends a signal; false: there is no such process. */
export function kill(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/** A service of a configuration: its name, where it listens, and the port of its upstream. */
export function service(name: string, at: string, to: number, more = ""): string {
  return (
    `[[service]]\nname = "${name}"\nlisten = "${at}"\nto = "127.0.0.1:${to}"\n` +
    `transparent = false\nsource = "self"\n${more}`
  );
}

export interface Upgradable {
  readonly proxy: Running;
  /** The admin socket. */
  readonly admin: string;
  /** The configuration file. */
  readonly file: string;
  /** All processes so far. */
  readonly pids: Set<number>;
  /** Puts another program at the executable's path, in one step, as a package manager does. */
  replace(text?: string): void;
}

/** Starts `run` with a configuration, and waits until it has printed `ready`. */
export async function upgradable(configuration: string, ready: RegExp): Promise<Upgradable> {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-upgrade-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, "tproxy");
  copyFileSync(executable, program);
  const [file, admin] = [join(folder, "tproxy.toml"), join(folder, "admin.sock")];
  const [top, ...services] = configuration.split(/^(?=\[\[service)/m);
  writeFileSync(file, `${top}[admin]\nsocket = "${admin}"\n${services.join("")}`);
  const proxy = start(["run", "-c", file], { command: [program] });
  const pids = new Set([proxy.pid]);
  cleanups.push(() => {
    for (const pid of pids) kill(pid, "SIGKILL");
  });
  await proxy.until(ready);
  const replace = (text?: string) => {
    const next = join(folder, "next");
    if (text === undefined) copyFileSync(executable, next);
    else writeFileSync(next, text, { mode: 0o755 });
    renameSync(next, program);
  };
  return { proxy, admin, file, pids, replace };
}

/** Has process `from` upgrade itself, and waits for the new process; its pid. */
export async function upgraded(
  { proxy, pids }: Pick<Upgradable, "proxy" | "pids">,
  from: number,
): Promise<number> {
  const known = proxy.stdout().length;
  kill(from, "SIGUSR2");
  const serves = /(?:process |"pid":)(\d+)(?: serves now|,"version")/;
  await eventually("the new process", () => serves.test(proxy.stdout().slice(known)));
  const [, pid = ""] = serves.exec(proxy.stdout().slice(known)) ?? [];
  pids.add(Number(pid));
  return Number(pid);
}

/** What an echo at a port of loopback answers over TCP, or what went wrong. */
export function echoed(port: number, text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" }, () => void socket.write(text));
    socket.on("data", (data: Buffer) => {
      resolve(data.toString());
      socket.destroy();
    });
    socket.on("error", (error) => resolve(error.message));
    socket.on("close", () => resolve("closed"));
  });
}
