/** The names of the tables beside a set-up's own: each is that one's with a suffix. */

/** Drops what a held set-up captured, once that is gone. */
export const closedSuffix = "_closed";
/** Empty; there until `routes --confirm` removes it. */
export const pendingSuffix = "_pending";
/** The same, for a set-up that stays held once it is confirmed. */
export const pendingHeldSuffix = "_pending_held";

/** Whether a table is a set-up's own, `name`, or one beside it. */
export function isOurName(found: string, name: string): boolean {
  const suffixes = ["", closedSuffix, pendingSuffix, pendingHeldSuffix];
  return suffixes.some((suffix) => found === name + suffix);
}
