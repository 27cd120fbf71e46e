/** `routes --apply` with `--hold` or `--rollback-after`: this process stays and holds the rules. */

import type { Applied } from "../capture/live/apply.ts";
import { Hold, type HoldEnd } from "../capture/live/hold.ts";
import { closedSuffix } from "../capture/live/names.ts";
import { conflictLine } from "../control/apply-rules.ts";
import type { KernelSettings } from "../control/kernel-settings.ts";
import type { ProcessIo } from "../control/process-io.ts";
import { reducePrivileges } from "../control/reduce-privileges.ts";
import type { RoutesContext } from "../control/routes-context.ts";
import { ruleNeeds } from "../diagnose/checks/privileges.ts";
import { exitStatus } from "../errors.ts";
import { formatDuration } from "../net/duration.ts";
import type { RuleOptions } from "./options/rules.ts";
import { flagSetting } from "./words/flag-setting.ts";

/**
 * Stays until the set-up is confirmed or removed, or a signal ends the process; returns the exit
 * status. A hang-up does not end the wait for a confirmation: the deadline does.
 */
export async function holdOn(
  situation: RoutesContext,
  settings: KernelSettings,
  options: RuleOptions,
  applied: Applied,
  io: ProcessIo,
  warnings: readonly string[],
): Promise<number> {
  const { kernel, parts, question, say, warn } = situation;
  const { hold: staysHeld, rollbackAfter } = options;
  const closed = options.onExit === "closed";
  const now = () => performance.now();
  const hold = new Hold({
    ...{ kernel, parts, question, closed, staysHeld, now },
    conflictLine: (conflict) => conflictLine(conflict, flagSetting),
    keepSettings: () => settings.watch(),
    owned: applied.owned,
    deadlineMs: rollbackAfter === undefined ? undefined : now() + rollbackAfter,
    say: (line) => void say(line),
  });
  // Neither a full disk nor the reader of the output decides how long the rules are held.
  io.mayLoseOutput({ closed: () => false, failing: () => {} });
  reducePrivileges({ needs: ruleNeeds("hold routes"), user: undefined });
  const ended = hold.run();
  io.onStop((reason) => hold.signal(reason));
  io.onHangup(() => hold.signal("SIGHUP"));
  for (const line of warnings) await warn(line);
  for (const line of applied.changes) await say(line);
  if (!applied.owned) await warn(noOwner);
  await say(
    rollbackAfter === undefined
      ? `held: ${owner(applied)}`
      : `in force for ${formatDuration(rollbackAfter)}: "tproxy routes --confirm" keeps it`,
  );
  const end = await ended;
  const restored = end === "keep" ? [] : settings.release();
  for (const line of restored) await say(line);
  await say(endText(end, closed, `${question.name}${closedSuffix}`));
  return end === "expire" || end === "abandon" ? exitStatus.failure : exitStatus.success;
}

const noOwner =
  "this kernel has no owned tables (Linux 5.12): the rules are removed at the end of this " +
  "process, but not if it is killed";

function owner({ owned }: Applied): string {
  return owned ? "the kernel takes the firewall table away with this process" : "until it ends";
}

function endText(end: HoldEnd, closed: boolean, closedTable: string): string {
  switch (end) {
    case "keep":
      return "confirmed";
    case "expire":
      return "taken back: nobody confirmed";
    case "abandon":
      return "taken back";
    case "release":
      return closed
        ? `released: table inet ${closedTable} drops what was captured; "tproxy routes --remove"`
        : "released";
  }
}
