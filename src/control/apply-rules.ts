/** The errors of every command that applies rules, one line each. */

import { EPERM, SyscallError } from "../../ffi/errno.ts";
import { type Conflict, findConflicts, heldTable } from "../capture/live/conflicts.ts";
import { Busy } from "../capture/live/lock.ts";
import { SysctlError } from "../capture/live/setting-memory.ts";
import { holderText } from "../capture/live/table-owner.ts";
import type { Sysctl } from "../capture/plan/plan.ts";
import type { SettingWords } from "../config/setting-words.ts";
import { explainUnmet, ruleNeeds } from "../diagnose/checks/privileges.ts";
import { heldCapabilities } from "../diagnose/snapshot/capabilities.ts";
import { CommandError } from "../errors.ts";
import type { RoutesContext } from "./routes-context.ts";

/** The line of a conflict, with the setting that would solve it. */
export function conflictLine({ text, setting }: Conflict, spell: SettingWords): string {
  if (setting === undefined) return text;
  return `${text}: choose ${setting === "table" ? "another" : "others"} with ${spell(setting)}`;
}

/**
 * Returns the conflicts with others on this host, a line each.
 * @throws CommandError where a running process holds a table of this name
 */
export function conflictsOf(
  { parts, live, question, guards }: RoutesContext,
  spell: SettingWords,
): readonly string[] {
  const held = heldTable(live);
  if (held === undefined) {
    const conflicts = findConflicts(parts, live, question.tag, guards);
    return conflicts.map((each) => conflictLine(each, spell));
  }
  throw new CommandError(
    `Cannot apply: ${holderText(held.owner)} holds the firewall table inet ${held.name}: end ` +
      `that process first, or give another ${spell("table-name")}`,
  );
}

/** Conflicts as the reason of a refusal. */
export function conflictText(conflicts: readonly string[]): string {
  return `Cannot apply, and nothing has been changed: ${conflicts.join("; ")}`;
}

/** The line about a kernel setting with another value than the plan needs. */
export function sysctlHint({ name, value, reason }: Sysctl, spell: SettingWords): string {
  return `not set without ${spell("sysctl")}: ${name}=${value}: ${reason}`;
}

/** Why the kernel rejects the local route, by errno; EACCES: addrconf's disable_ipv6. */
const routeReasons: Readonly<Record<string, (spell: SettingWords) => string>> = {
  ENETDOWN: () => ': lo is down, "ip link set lo up"',
  EACCES: (spell) =>
    `: IPv6 is off on lo: give ${spell("family", "4")}, or set net.ipv6.conf.lo.disable_ipv6=0`,
};

/** Does `work` and makes one line of an error of the kernel. @throws CommandError */
export async function explained<T>(
  action: string,
  spell: SettingWords,
  work: () => T | Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Busy) {
      throw new CommandError(
        `Cannot ${action}: ${holderText(error.owner)} has been changing rules for seconds: ` +
          "try again",
      );
    }
    if (error instanceof SysctlError) throw new CommandError(`Cannot ${action}: ${error.message}`);
    if (!(error instanceof SyscallError)) throw error;
    if (error.errno === EPERM) {
      const why = explainUnmet(ruleNeeds(action), heldCapabilities());
      throw new CommandError(`Cannot ${action} routes: ${why}`);
    }
    const reason = routeReasons[error.code]?.(spell) ?? "";
    throw new CommandError(`Cannot ${action} routes: ${error.message}${reason}`);
  }
}
