/** The program under test, as a user starts it: the built executable if there is one. */

import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");
const executable = join(root, "dist", "tproxy");

/** The command line that starts tproxy. `bun run test` builds first, so that this is the build. */
export const tproxy: readonly string[] = existsSync(executable)
  ? [executable]
  : [process.execPath, join(root, "src", "main.ts")];

/** A finished run. */
export interface Run {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running tproxy whose output can be waited for. */
export interface Running {
  readonly pid: number;
  /** Everything on standard output so far. */
  stdout(): string;
  stderr(): string;
  /** Settles with the match as soon as standard output has one; fails if the process ends first. */
  until(pattern: RegExp): Promise<RegExpMatchArray>;
  write(text: string | Uint8Array): void;
  endInput(): void;
  kill(signal: NodeJS.Signals): void;
  finished(): Promise<Run>;
}

export interface StartOptions {
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** Instead of the build: how a tproxy with something else in it is started. */
  readonly command?: readonly string[];
  /** Put in front of the command line: `setpriv …`, `unshare …`. */
  readonly prefix?: readonly string[];
}

/** How long something may take on a slow machine, in ms: less than the time-out of a test. */
const patienceMs = 120_000;

/** The last processes that were started: what they printed says why something did not happen. */
const latest: Running[] = [];
const latestMax = 6;
const shownChars = 2_500;

/** The ends of their output, for the error of a test. */
function outputs(): string {
  const end = (text: string) => text.slice(-shownChars);
  return latest
    .map(({ pid, stdout, stderr }) => `\n--- process ${pid}:\n${end(stdout())}${end(stderr())}`)
    .join("");
}

/** Fails where `promise` has not settled in time, naming `what` and all that was printed. */
async function inTime<T>(what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`never: ${what}${outputs()}`)), patienceMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Starts tproxy with open standard input. */
export function start(args: readonly string[], options: StartOptions = {}): Running {
  const child = Bun.spawn([...(options.prefix ?? []), ...(options.command ?? tproxy), ...args], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, NO_COLOR: "1", ...options.env },
  });
  const output = { stdout: "", stderr: "" };
  const waiting = new Set<() => void>();
  const read = async (name: "stdout" | "stderr") => {
    const decoder = new TextDecoder();
    for await (const chunk of child[name]) {
      output[name] += decoder.decode(chunk, { stream: true });
      for (const wake of waiting) wake();
    }
  };
  const drained = Promise.all([read("stdout"), read("stderr")]);
  let ended = false;
  void drained.then(() => {
    ended = true;
    for (const wake of waiting) wake();
  });
  const until = (pattern: RegExp) =>
    new Promise<RegExpMatchArray>((resolve, reject) => {
      const look = () => {
        const match = output.stdout.match(pattern);
        if (match === null && !ended) return;
        waiting.delete(look);
        if (match !== null) resolve(match);
        else reject(new Error(`no ${pattern} in ${JSON.stringify(output)}`));
      };
      waiting.add(look);
      look();
    });
  const running: Running = {
    pid: child.pid,
    stdout: () => output.stdout,
    stderr: () => output.stderr,
    until: (pattern) => inTime(`${pattern} of process ${child.pid}`, until(pattern)),
    write: (text) => {
      child.stdin.write(text);
      child.stdin.flush();
    },
    endInput: () => {
      child.stdin.end();
    },
    kill: (signal) => child.kill(signal),
    finished: async () => {
      await inTime(`the end of process ${child.pid}`, Promise.all([child.exited, drained]));
      return { status: child.exitCode, signal: child.signalCode as Run["signal"], ...output };
    },
  };
  latest.push(running);
  if (latest.length > latestMax) latest.shift();
  return running;
}

/** Runs tproxy to its end with `input` as standard input. */
export function run(
  args: readonly string[],
  options: StartOptions & { input?: string | Uint8Array } = {},
): Promise<Run> {
  const running = start(args, options);
  if (options.input !== undefined) running.write(options.input);
  running.endInput();
  return running.finished();
}

/** Starts `listen` with these arguments and waits for its first address; the port of it. */
export async function listening(
  args: readonly string[],
  options: StartOptions = {},
): Promise<{ server: Running; port: number }> {
  const server = start(["listen", ...args], options);
  const [, port] = await server.until(/\[\+\] Bound to \w+:\/\/\S+:(\d+)\n/);
  return { server, port: Number(port) };
}

/** The text log without the time in front of its lines; every `[` line has to have one. */
export function timeless(text: string): string {
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(?:Z|[+-]\d\d:\d\d) (?=\[| {4})/gm;
  if (/^\[/m.test(text)) throw new Error(`a line without its time in ${JSON.stringify(text)}`);
  return text.replace(time, "");
}

/** What the descriptors of a process are: `socket:[123]`, `/dev/null`, … */
export function descriptors(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
    } catch {
      return [];
    }
  });
}

/**
 * Waits until `condition` holds. Otherwise it fails after a generous time, with `what` and all that
 * was printed; `seen` adds what else tells why.
 */
export async function eventually(
  what: string,
  condition: () => boolean,
  seen?: () => unknown,
): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!condition()) {
    if (performance.now() > deadline) {
      const more = seen === undefined ? "" : `: ${JSON.stringify(seen())}`;
      throw new Error(`never: ${what}${more}${outputs()}`);
    }
    await Bun.sleep(5);
  }
}
