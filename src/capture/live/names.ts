/**
 * The names of firewall tables: a set-up's own, and those of the tables beside it, which are that
 * one's with a suffix.
 */

/** Drops what a held set-up captured, once that is gone. */
export const closedSuffix = "_closed";
/** An empty table: a process waits for a confirmation. */
export const pendingSuffix = "_pending";
/** Empty; is the confirmation, until that process has seen it. */
export const confirmedSuffix = "_confirmed";

/** Exists while a process changes set-ups: see `lock.ts`. */
export const lockName = "tproxyd_lock";

const suffixes = [closedSuffix, pendingSuffix, confirmedSuffix];
const draining = /_draining_\d+$/;

/** Whether a table is a set-up's own, `name`, or one beside it. */
export function isOurName(found: string, name: string): boolean {
  return found === name || suffixes.some((suffix) => found === name + suffix);
}

/** The set-up that a table belongs to by its name. */
export function setupOf(found: string): string {
  const suffix = suffixes.find((each) => found.endsWith(each));
  return suffix === undefined ? found : found.slice(0, -suffix.length);
}

/**
 * The table of a process that only lets open connections end. The set-up's own name is free for the
 * next process; its name has the netlink port of its owner, since others may drain as well.
 */
export function drainingName(name: string, portId: number): string {
  return `${name}_draining_${portId >>> 0}`;
}

/** Whether a table is one that `drainingName` names. */
export function isDraining(found: string): boolean {
  return draining.test(found);
}
