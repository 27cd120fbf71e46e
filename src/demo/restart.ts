/**
 * The demo once more as root of a user namespace: what an ordinary user may be anywhere where user
 * namespaces are allowed. `unshare -Urn` (util-linux) makes one; Bun, which has several threads,
 * cannot do it for itself (EINVAL, unshare(2)).
 *
 * The inner process has a pipe from us as its standard input. Nothing is ever written to it: its
 * end tells the inner process that we are gone, however we went.
 */

import { readFileSync } from "node:fs";
import type { ProcessIo } from "../control/process-io.ts";
import { findProgram } from "../control/programs.ts";
import { CommandError, type StopReason } from "../errors.ts";

/** Holds our process id for the inner process, which knows by it that it is one. */
const parentVariable = "TPROXY_DEMO_PARENT";

/**
 * At a terminal Ctrl-C reaches both processes. Only if the inner one has not ended by then is the
 * signal passed on: to it, a second one means haste.
 */
const forwardAfterMs = 200;

/** Whether this process was started by `restartAsRoot`. */
export function isRestarted(): boolean {
  return process.env[parentVariable] === String(process.ppid);
}

/** Ends this process as soon as the one that started it again is gone. */
export function endWithParent(io: ProcessIo): void {
  process.stdin.once("close", () => io.exit(1)).once("end", () => io.exit(1));
  process.stdin.resume();
}

/**
 * Runs this command again under `unshare -Urn` and answers its exit status.
 * @throws CommandError where that is not possible, with the ways out
 */
export async function restartAsRoot(io: ProcessIo): Promise<number> {
  const [unshare, nothing] = [findProgram("unshare"), findProgram("true")];
  if (unshare === undefined) {
    throw new CommandError(
      "the demo needs network namespaces of its own: run it as root, or install unshare " +
        '(Debian\'s package "util-linux") and run it again',
    );
  }
  const trial = Bun.spawnSync([unshare, "-Urn", nothing ?? "true"], { stdin: "ignore" });
  if (!trial.success) throw new CommandError(refusal(trial.stderr.toString()));
  const child = Bun.spawn([unshare, "-Urn", "--", ...ownCommand()], {
    stdin: "pipe",
    stdout: "inherit",
    stderr: "inherit",
    env: { ...process.env, [parentVariable]: String(process.pid) },
  });
  io.onStop((reason) => {
    setTimeout(() => child.kill(signalOf(reason)), forwardAfterMs);
  });
  // A death by a signal gives the status that a shell gives.
  return child.exited;
}

function signalOf(reason: StopReason) {
  return reason === "EPIPE" ? "SIGTERM" : reason;
}

/** How to start this program with these arguments again: compiled, or run by Bun from source. */
function ownCommand(): string[] {
  const isCompiled = Bun.main.startsWith("/$bunfs/");
  const entry = isCompiled ? [] : [Bun.main];
  return [process.execPath, ...entry, ...process.argv.slice(2)];
}

/** Settings that forbid user namespaces to ordinary users, with the value that allows them. */
const gates: readonly (readonly [name: string, shut: number, open: number])[] = [
  ["kernel.unprivileged_userns_clone", 0, 1],
  ["kernel.apparmor_restrict_unprivileged_userns", 1, 0],
  ["user.max_user_namespaces", 0, 10_000],
];

function refusal(stderr: string): string {
  const shut = gates.find(([name, value]) => readSysctl(name) === value);
  const ways =
    shut === undefined
      ? "in a container, start it with `docker run --privileged`"
      : `allow user namespaces by "sudo sysctl -w ${shut[0]}=${shut[2]}"`;
  const reason = stderr
    .trim()
    .split("\n")[0]
    ?.replace(/^unshare: /, "");
  return (
    `the demo needs network namespaces of its own, and may not make them here ` +
    `(unshare -Urn: ${reason || "failed"}): run it as root, "sudo tproxy demo", or ${ways}`
  );
}

function readSysctl(name: string): number | undefined {
  try {
    return Number(readFileSync(`/proc/sys/${name.replaceAll(".", "/")}`, "latin1"));
  } catch {
    return undefined;
  }
}
