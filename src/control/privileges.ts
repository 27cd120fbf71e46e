/** Whether this process has the capabilities for what it was asked, found out before it starts. */

import { explainUnmet, type Need, unmet } from "../diagnose/checks/privileges.ts";
import { heldCapabilities } from "../diagnose/snapshot/capabilities.ts";
import { readSysctl } from "../diagnose/snapshot/proc.ts";
import { CommandError } from "../errors.ts";

/**
 * Compares `needs` with what this process has.
 * @returns a line for each of those that the command can do without
 * @throws CommandError with one line about all others that are not met
 */
export function checkPrivileges(needs: readonly Need[]): string[] {
  const held = heldCapabilities();
  const missing = unmet(needs, held);
  const fatal = missing.filter(({ otherwise }) => otherwise === undefined);
  const [first] = fatal;
  if (first !== undefined) {
    throw new CommandError(`Cannot ${first.action}: ${explainUnmet(fatal, held)}`);
  }
  return missing.map((need) => explainUnmet([need], held));
}

/** The ports that every process may bind begin here; undefined if that cannot be read. */
export function portStart(): number | undefined {
  return readSysctl("net.ipv4.ip_unprivileged_port_start");
}
