/** Tests that need a program of the machine: skipped, with its name in the title, without it. */

import { test } from "bun:test";
import { findProgram } from "../../src/control/programs.ts";

// Debian keeps administration programs in sbin, which is not on every PATH. What is run as root is
// the system's before anybody else's.
const PATH = `/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:${process.env.PATH ?? ""}`;

/** The path of a program, or undefined. */
export function which(program: string): string | undefined {
  return findProgram(program, PATH);
}

/**
 * `test`, or a skipped one that names what is missing: programs, and further means of the machine
 * that are given as `{ name: whether it is there }`.
 */
export function testWith(
  programs: readonly string[],
  means: Readonly<Record<string, boolean>> = {},
) {
  const missing = [
    ...programs.filter((program) => which(program) === undefined),
    ...Object.keys(means).filter((name) => means[name] !== true),
  ];
  return (title: string, body: Parameters<typeof test>[1], timeoutMs = 180_000): void => {
    if (missing.length === 0) test(title, body, timeoutMs);
    else test.skip(`${title} [missing: ${missing.join(", ")}]`, body);
  };
}
