/** What `routes --apply` and `forward --routes auto` share: refusals, and how they are told. */

import { EPERM, SyscallError } from "../../ffi/errno.ts";
import { findConflicts, heldTable } from "../capture/live/conflicts.ts";
import { Busy } from "../capture/live/lock.ts";
import { SysctlError } from "../capture/live/setting-memory.ts";
import { holderText } from "../capture/live/table-owner.ts";
import type { Sysctl } from "../capture/plan/plan.ts";
import { explainUnmet, ruleNeeds } from "../diagnose/checks/privileges.ts";
import { heldCapabilities } from "../diagnose/snapshot/capabilities.ts";
import { CommandError } from "../errors.ts";
import { conflictLine } from "./conflict-words.ts";
import type { RoutesContext } from "./routes-context.ts";

/**
 * In whose way applying would get; a line each.
 * @throws CommandError where a running process holds a table of this name
 */
export function conflictsOf({ parts, live, question, guards }: RoutesContext): readonly string[] {
  const held = heldTable(live);
  if (held === undefined) {
    return findConflicts(parts, live, question.tag, guards).map(conflictLine);
  }
  throw new CommandError(
    `Cannot apply: ${holderText(held.owner)} holds the firewall table inet ${held.name}: end ` +
      "that process first, or give another --table-name",
  );
}

/** Conflicts as the reason of a refusal. */
export function conflictText(conflicts: readonly string[]): string {
  return `Cannot apply, and nothing has been changed: ${conflicts.join("; ")}`;
}

/** A setting that is not as it should be, and is not set. */
export function sysctlHint({ name, value, reason }: Sysctl): string {
  return `  not set without --sysctl: ${name}=${value}: ${reason}`;
}

/** What a refusal of the local route comes from; EACCES: addrconf's disable_ipv6. */
const hints: Readonly<Record<string, string>> = {
  ENETDOWN: ': lo is down, "ip link set lo up"',
  EACCES: ": IPv6 is off on lo: give --family 4, or set net.ipv6.conf.lo.disable_ipv6=0",
};

/** Does `work` and turns what the kernel refuses into one line. @throws CommandError */
export async function explained<T>(action: string, work: () => T | Promise<T>): Promise<T> {
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
    throw new CommandError(`Cannot ${action} routes: ${error.message}${hints[error.code] ?? ""}`);
  }
}
