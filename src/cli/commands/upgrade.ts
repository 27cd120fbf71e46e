/** `tproxy upgrade`: has a running process hand over to a new one. */

import { resolve } from "node:path";
import { object } from "@optique/core/constructs";
import { optional } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, option } from "@optique/core/primitives";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { CommandError, exitStatus } from "../../errors.ts";
import { printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { fileValue } from "../options/values.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("upgrade"),
  ...inGroup("Process", {
    exec: optional(
      option("--exec", fileValue(), {
        description: prose`The executable to go on with; by default what lies where the running one
          was started from.`,
      }),
    ),
    admin: adminOption,
  }),
});

/** The command `upgrade` for the argument parser. */
export const upgradeCommand = command("upgrade", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Replace a running process by a new one, without losing a connection.`,
  description: prose`The running process starts the executable anew, with its own arguments, and
    hands over listeners, rules and counters; the new one reads the configuration file again. Open
    TCP connections move to it after 5 s. If the new one does not start, or ends before, the old
    one goes on, and the exit status is 1. SIGUSR2 does the same, without waiting.`,
  footer: examplesFooter([
    ["tproxy upgrade", "after the executable was replaced"],
    ["tproxy upgrade --exec ./tproxy", "try another one"],
  ]),
});

/** The old process may take everything back for so long, and a moment for the new one to answer. */
const trialMs = 5_000;
const answerMs = 10_000;
const pollMs = 200;

/** Runs `upgrade`; the exit status. @throws CommandError */
export async function runUpgrade(
  { exec, admin }: InferValue<typeof fields>,
  { stdout }: ProcessIo,
): Promise<number> {
  const client = new AdminClient(admin);
  const program = exec === undefined ? {} : { exec: resolve(exec) };
  const { pid, version } = (await client.request("POST", "/v1/upgrade", program)) as Upgraded;
  const started = performance.now();
  const elapsed = () => performance.now() - started;
  for (let serving: number | undefined; serving !== pid || elapsed() < trialMs; ) {
    if (elapsed() > trialMs + answerMs) throw lost(pid);
    await Bun.sleep(pollMs);
    const last = serving;
    serving = await pidOf(client);
    if (last === pid && serving !== undefined && serving !== pid) throw lost(pid);
  }
  void stdout.write(`process ${pid} serves now: tproxy ${printLine(version)}\n`);
  return exitStatus.success;
}

interface Upgraded {
  readonly pid: number;
  readonly version: string;
}

function lost(pid: number): CommandError {
  return new CommandError(
    `Cannot upgrade: the new process ${pid} has ended, and the old one serves: see its log`,
  );
}

/** Who answers; undefined while nobody does. */
async function pidOf(client: AdminClient): Promise<number | undefined> {
  try {
    const { pid } = (await client.request("GET", "/v1/status")) as { pid: number };
    return pid;
  } catch {
    return undefined;
  }
}
