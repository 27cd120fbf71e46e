/** A walk along the kernel's decisions, and what it comes to. Pure. */

import type { Finding } from "../checks/finding.ts";

export interface Explanation {
  /** In the kernel's order. The last one is the failure, if there is one. */
  readonly steps: readonly Finding[];
  readonly works: boolean;
  /** It will work, or it will not, because: one sentence. */
  readonly conclusion: string;
}

/** Steps that depend on the firewall's mark: without it, nothing behind them is known. */
const decisive: readonly string[] = ["ip rule", "way back"];

/** Ends at the first step that fails or is unknown, with a sentence about it. */
export function concludeAt(
  steps: readonly Finding[],
  success: string,
  subject: string,
): Explanation {
  const at = steps.findIndex(({ severity, check, decisive: depends }) => {
    const isDecisive = depends === true || decisive.includes(check);
    return severity === "failure" || (severity === "unknown" && isDecisive);
  });
  const failed = steps[at];
  if (failed !== undefined) {
    const isKnown = failed.severity === "failure";
    const conclusion = isKnown
      ? `It will not work: ${subject}. ${failed.text}`
      : `It cannot be told whether it will work. ${failed.text}`;
    return { steps: steps.slice(0, at + 1), works: false, conclusion };
  }
  const open = steps.find(({ severity }) => severity === "unknown");
  const doubt = open === undefined ? "" : ` One thing is not known. ${open.text}`;
  return { steps, works: true, conclusion: `It will work: ${success}.${doubt}` };
}
