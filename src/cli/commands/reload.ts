/** `tproxy reload`: has a running process take over its configuration file. */

import { object } from "@optique/core/constructs";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag } from "@optique/core/primitives";
import { problemText } from "../../config/problem.ts";
import { AdminClient } from "../../control/admin/client.ts";
import type { Applied } from "../../control/admin/controlled.ts";
import type { ProblemPlace } from "../../control/admin/problem.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { CommandError, exitStatus } from "../../errors.ts";
import { printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("reload"),
  ...inGroup("Change", {
    dryRun: withDefault(
      flag("--dry-run", { description: prose`Only print what would change.` }),
      false,
    ),
    closeRemoved: withDefault(
      flag("--close-removed", {
        description: prose`Reset the connections of services and upstreams that are gone. By
          default they go on until they end.`,
      }),
      false,
    ),
    noWait: withDefault(
      flag("--no-wait", {
        description: prose`Do not wait for the answer: the log has it.`,
      }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
  ...inGroup("Output", {
    json: withDefault(flag("--json", { description: prose`Print the answer as JSON.` }), false),
  }),
});

/** The command `reload` for the argument parser. */
export const reloadCommand = command("reload", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Have a running process take over its configuration file.`,
  description: prose`The process reads its configuration again and takes over all of it, or nothing.
    Connections of services that stay are not touched. Each change is a line: ${"+"} for what comes,
    ${"-"} for what goes, ${"~"} for what differs. The exit status is 2 for a configuration with
    problems, 3 if nothing runs, 4 for changes that only an upgrade can make, and 1 if the system
    refuses something; then nothing was changed. SIGHUP does the same, and the log has the
    answer.`,
  footer: examplesFooter([
    ["tproxy reload --dry-run", "what would change"],
    ["tproxy reload", "take it over"],
    ["tproxy reload --close-removed", "and end what is gone"],
  ]),
});

/** Runs `reload`; the exit status. @throws CommandError if nothing runs */
export async function runReload(
  { dryRun, closeRemoved, noWait, admin, json }: InferValue<typeof fields>,
  { stdout, stderr }: ProcessIo,
): Promise<number> {
  const wanted = { dry_run: dryRun, close_removed: closeRemoved };
  const asking = new AdminClient(admin).ask("POST", "/v1/reload", wanted);
  if (noWait) return await unwaited(asking, { stdout });
  const { status, body } = await asking;
  if (json) void stdout.write(body.endsWith("\n") ? body : `${body}\n`);
  const answer = parsed(body);
  if (status < 400) {
    if (!json) void stdout.write(appliedLines(answer as Applied, dryRun));
    return exitStatus.success;
  }
  if (!json) void stderr.write(problemLines(answer));
  return failedStatus(status, answer);
}

/** The end of a reload that is not waited for, unless it has failed at once. */
async function unwaited(
  asking: Promise<unknown>,
  { stdout }: Pick<ProcessIo, "stdout">,
): Promise<number> {
  await Promise.race([asking, Bun.sleep(sentMs)]);
  void stdout.write("asked for a reload\n");
  return exitStatus.success;
}

/** After so long a request has arrived, if there is somebody who takes it. */
const sentMs = 1_500;

interface Failed {
  readonly detail?: string;
  readonly problems?: readonly ProblemPlace[];
  readonly needs_upgrade?: boolean;
}

function parsed(body: string): Applied | Failed {
  try {
    return JSON.parse(body);
  } catch {
    throw new CommandError("the answer of the process is no JSON");
  }
}

function appliedLines({ changes, generation }: Applied, isDry: boolean): string {
  if (changes.length === 0) return "nothing to change\n";
  const last = isDry
    ? "nothing was changed: this was a dry run"
    : `applied: generation ${generation}`;
  return [...changes, last].map((line) => `${printLine(line)}\n`).join("");
}

/** Problems as `tproxy check` prints them, and last that nothing was changed. */
function problemLines(answer: Applied | Failed): string {
  const { detail = "nothing was changed", problems = [] } = answer as Failed;
  const lines = problems.map(({ file, line, column = 1, message }) => {
    const at = line === undefined ? undefined : { line, column };
    return file === undefined ? message : problemText({ file, at, text: message });
  });
  return [...lines, `tproxy: ${detail}`].map((line) => `${printLine(line)}\n`).join("");
}

function failedStatus(status: number, answer: Applied | Failed): number {
  if ("needs_upgrade" in answer && answer.needs_upgrade === true) return exitStatus.needsUpgrade;
  return status === 422 ? exitStatus.usage : exitStatus.failure;
}
