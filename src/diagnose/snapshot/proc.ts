/** Reads facts of this process and kernel settings from /proc. I/O, and no judgement. */

import { readFileSync } from "node:fs";

/** Whether this process was started with a signal ignored, as by nohup(1). */
export function ignoresSignal(signal: number): boolean {
  const status = readFileSync("/proc/self/status", "latin1");
  const bits = BigInt(`0x${/^SigIgn:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  return ((bits >> BigInt(signal - 1)) & 1n) === 1n;
}

/**
 * A number of /proc/sys by its name with dots; interface names with dots are given with `/`.
 * Undefined if there is none or it cannot be read.
 */
export function readSysctl(name: string): number | undefined {
  try {
    const path = name.includes("/") ? name : name.replaceAll(".", "/");
    const value = Number.parseInt(readFileSync(`/proc/sys/${path}`, "latin1"), 10);
    return Number.isNaN(value) ? undefined : value;
  } catch {
    return undefined;
  }
}
