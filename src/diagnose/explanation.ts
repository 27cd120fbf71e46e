/** A walk along the kernel's decisions, and what it comes to. Pure. */

import type { Finding } from "./finding.ts";

export interface Explanation {
  /** In the kernel's order. The last one is the failure, if there is one. */
  readonly steps: readonly Finding[];
  readonly works: boolean;
  /** It will work, or it will not, because: one sentence. */
  readonly conclusion: string;
}

/** Ends at the first step that fails, with a sentence about it. */
export function concludeAt(
  steps: readonly Finding[],
  success: string,
  subject: string,
): Explanation {
  const at = steps.findIndex(({ severity }) => severity === "failure");
  const failed = steps[at];
  if (failed !== undefined) {
    const conclusion = `It will not work: ${subject}. ${failed.text}`;
    return { steps: steps.slice(0, at + 1), works: false, conclusion };
  }
  const open = steps.find(({ severity }) => severity === "unknown");
  const doubt = open === undefined ? "" : ` One thing is not known. ${open.text}`;
  return { steps, works: true, conclusion: `It will work: ${success}.${doubt}` };
}
