/**
 * What ip(8) and nft(8) send for the commands of `cases.ts`. Run by itself, it writes them to
 * `messages.golden`, below the command that each comes from.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unshareCommand } from "../../helpers/netns.ts";
import { cases } from "./cases.ts";

const goldenPath = join(import.meta.dir, "messages.golden");

/** Lines of hex by command: what one call of `send` sent, headers included. */
export type Recording = ReadonlyMap<string, readonly string[]>;

/** The recording that is kept with the tests. */
export async function readGolden(): Promise<Recording> {
  const recording = new Map<string, string[]>();
  let lines: string[] = [];
  for (const line of (await Bun.file(goldenPath).text()).split("\n")) {
    if (line.startsWith("# ")) {
      lines = [];
      recording.set(line.slice(2), lines);
    } else if (line !== "") {
      lines.push(line);
    }
  }
  return recording;
}

/** Runs the commands of all cases, each in a network namespace of its own, and records them. */
export async function record(): Promise<Recording> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-test-"));
  try {
    const library = join(folder, "recorder.so");
    const source = join(import.meta.dir, "recorder.c");
    await run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"]);
    const recording = new Map<string, string[]>();
    for (const { command, setup = ":" } of cases) {
      const file = join(folder, "sent");
      await Bun.write(file, "");
      await run([...unshareCommand, "sh", "-ec", script(command, setup, library, file)]);
      recording.set(command, (await Bun.file(file).text()).split("\n").filter(Boolean));
    }
    return recording;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function script(command: string, setup: string, library: string, file: string): string {
  return `
    PATH="$PATH:/usr/sbin:/sbin"
    ip link set lo up
    ip link add veth0 index 2 type veth peer name veth9 index 3
    ip link set veth9 up
    ip link set veth0 up
    ip address add 192.0.2.1/24 dev veth0
    ${setup}
    export LD_PRELOAD=${library} NETLINK_RECORD=${file}
    ${command} >/dev/null`;
}

async function run(command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe" });
  const problems = await child.stderr.text();
  if ((await child.exited) !== 0) throw new Error(`${command.at(-1)}\n${problems}`);
}

if (import.meta.main) {
  const blocks = [...(await record())].map(
    ([command, lines]) => `# ${command}\n${lines.join("\n")}\n`,
  );
  await Bun.write(goldenPath, blocks.join("\n"));
}
