/** A question on the terminal. */

import type { ProcessIo } from "../control/process-io.ts";

/** The answer; undefined where there is no terminal to ask at. Only "y" and "yes" are a yes. */
export async function askYesNo(question: string, io: ProcessIo): Promise<boolean | undefined> {
  if (process.stdin.isTTY !== true || !io.stderr.isTerminal) return undefined;
  void io.stderr.write(`${question} [y/N] `);
  for await (const line of console) return /^y(es)?$/i.test(line.trim());
  return false;
}
