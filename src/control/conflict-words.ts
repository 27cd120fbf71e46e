/** Conflicts with what is on this host, in the words of the command line. Pure. */

import type { Conflict } from "../capture/live/conflicts.ts";

const advice = {
  mark: "choose others with --mark",
  "guard-mark": "choose others with --guard-mark",
  table: "choose another with --table",
} as const;

/** The line that tells a conflict, and which option would help. */
export function conflictLine({ text, setting }: Conflict): string {
  return setting === undefined ? text : `${text}: ${advice[setting]}`;
}
