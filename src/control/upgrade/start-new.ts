/** Starts the new process of an upgrade: this program again, from its place or another one. */

import { lendCapabilities } from "../../../ffi/credentials.ts";
import type { NewProcess } from "./old.ts";
import { takeoverVariable } from "./takeover.ts";

/** The channel is the descriptor behind standard error. */
const channelFd = 3;

/** Variables that are about the old process alone. */
const own = /^(WATCHDOG_PID|LISTEN_.*|BUN_.*)$/;

/** Where this executable lies, or lay before another one took its place. */
function ownPath(): string {
  return process.execPath.replace(/ \(deleted\)$/, "");
}

/**
 * Starts `program`, or what lies at this executable's path by now, with the arguments of this
 * process, and `fd` as the channel. It gets the capabilities that this process has kept.
 * @throws Error where that is no program
 */
export function startNew(fd: number, program: string | undefined): NewProcess {
  const isBuilt = Bun.main.startsWith("/$bunfs/");
  const command = [program ?? ownPath()];
  if (program === undefined && !isBuilt) command.push(Bun.main);
  const env = Object.entries(process.env).filter(([name]) => !own.test(name));
  const takeBack = lendCapabilities();
  try {
    const child = Bun.spawn({
      cmd: [...command, ...process.argv.slice(2)],
      stdio: ["inherit", "inherit", "inherit", fd],
      env: { ...Object.fromEntries(env), [takeoverVariable]: String(channelFd) },
    });
    return {
      pid: child.pid,
      exited: child.exited.then(() =>
        child.signalCode === null
          ? `it exited with status ${child.exitCode}; standard error has the reason`
          : `it was ended by ${child.signalCode}`,
      ),
      kill: () => child.kill("SIGKILL"),
    };
  } finally {
    takeBack();
  }
}
