/** Something wrong in a configuration, with its place. Pure. */

import type { Position } from "./located.ts";

export interface ConfigProblem {
  readonly file: string;
  /** Undefined: the file as a whole. */
  readonly at?: Position | undefined;
  readonly text: string;
}

/** The problem as a line for its author. */
export function problemText({ file, at, text }: ConfigProblem): string {
  return at === undefined ? `${file}: ${text}` : `${file}:${at.line}:${at.column}: ${text}`;
}
