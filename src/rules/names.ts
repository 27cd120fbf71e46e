/** The names of the tables beside a set-up's own: each is that one's with a suffix. */

/** Drops what a held set-up captured, once that is gone. */
export const closedSuffix = "_closed";
/** Empty; says that a process waits for a confirmation. */
export const pendingSuffix = "_pending";
/** Empty; is the confirmation, until that process has seen it. */
export const confirmedSuffix = "_confirmed";

/** Whether a table is a set-up's own, `name`, or one beside it. */
export function isOurName(found: string, name: string): boolean {
  const suffixes = ["", closedSuffix, pendingSuffix, confirmedSuffix];
  return suffixes.some((suffix) => found === name + suffix);
}
