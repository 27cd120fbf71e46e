/** Bounds that are lower than asked for, in the words of the command line. */

import type { Lowered } from "../control/places.ts";
import { CommandError } from "../errors.ts";

/** The line that tells one. */
export function loweredLine({ setting, wanted, there }: Lowered): string {
  return (
    `--${setting} ${wanted} is lowered to ${there}, because the limit on descriptors is too ` +
    "low: raise it (LimitNOFILE=, ulimit -Hn)"
  );
}

/** A line for each. @throws CommandError with them, if it is strict */
export function checkLowered(isStrict: boolean, lowered: readonly Lowered[]): string[] {
  const lines = lowered.map(loweredLine);
  if (lines.length === 0 || !isStrict) return lines;
  throw new CommandError(`Cannot start by --strict-limits: ${lines.join("; ")}`);
}
