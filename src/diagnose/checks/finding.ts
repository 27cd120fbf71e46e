/** The result of a check: a sentence, its severity, and the command that repairs the fault. */

export type Severity = "ok" | "warning" | "failure" | "unknown";

export interface Finding {
  /** A short name of the check, one word or two: `capabilities`, `ip rule`. */
  readonly check: string;
  readonly severity: Severity;
  readonly text: string;
  /** A command that repairs it, or what to do. */
  readonly repair?: string;
  /** It is not known, and whether all works depends on it. */
  readonly decisive?: true;
}

/** All is well. */
export function ok(check: string, text: string): Finding {
  return { check, severity: "ok", text };
}

/** It will not work, and what repairs it. */
export function failure(check: string, text: string, repair?: string): Finding {
  return withRepair({ check, severity: "failure", text }, repair);
}

/** It may not work, or not for everybody. */
export function warning(check: string, text: string, repair?: string): Finding {
  return withRepair({ check, severity: "warning", text }, repair);
}

/** The result is unknown, and why. */
export function unknown(check: string, text: string, repair?: string): Finding {
  return withRepair({ check, severity: "unknown", text }, repair);
}

/** The result is unknown, and whether the service works depends on it. */
export function undecided(check: string, text: string, repair?: string): Finding {
  return { ...unknown(check, text, repair), decisive: true };
}

function withRepair(finding: Finding, repair: string | undefined): Finding {
  return repair === undefined ? finding : { ...finding, repair };
}
