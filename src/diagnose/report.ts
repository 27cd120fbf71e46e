/** Findings as text for people. Pure. */

import { printLine } from "../net/printable.ts";
import type { Explanation } from "./explanation.ts";
import type { Finding, Severity } from "./finding.ts";

/** Findings about one thing. */
export interface Section {
  readonly title: string;
  readonly findings: readonly Finding[];
}

const words: Readonly<Record<Severity, string>> = {
  ok: "ok",
  warning: "WARNING",
  failure: "FAILURE",
  unknown: "unknown",
};
const colors: Readonly<Record<Severity, number>> = {
  ok: 32,
  warning: 33,
  failure: 31,
  unknown: 36,
};
const wordWidth = 9;
const checkWidth = 15;

/** Sections one after the other, a line a finding and one for what repairs it, and a last line. */
export function renderSections(
  sections: readonly Section[],
  style: { readonly colors: boolean },
): string {
  const blocks = sections.map(({ title, findings }) =>
    [title, ...findings.map((each) => line(each, style.colors))].join("\n"),
  );
  return `${[...blocks, conclusion(sections)].join("\n\n")}\n`;
}

/** The steps of an explanation and its last sentence. */
export function renderExplanation(
  { steps, conclusion: last }: Explanation,
  style: { readonly colors: boolean },
): string {
  return `${steps.map((step) => line(step, style.colors)).join("\n")}\n\n${printLine(last)}\n`;
}

function line({ check, severity, text, repair }: Finding, colored: boolean): string {
  const word = words[severity].padEnd(wordWidth);
  const shown = colored ? `\x1b[${colors[severity]}m${word}\x1b[0m` : word;
  // Names of the kernel's and of others are in it: they neither end the line nor drive a terminal.
  const first = `  ${shown}${check.padEnd(checkWidth)}${printLine(text)}`;
  if (repair === undefined) return first;
  return `${first}\n${" ".repeat(2 + wordWidth + checkWidth)}repair: ${printLine(repair)}`;
}

/** One sentence about all of it. */
export function conclusion(sections: readonly Section[]): string {
  const all = sections.flatMap(({ findings }) => findings);
  const count = (severity: Severity) => all.filter((each) => each.severity === severity);
  const failures = count("failure");
  const unknowns = count("unknown").length;
  const unchecked = unknowns === 0 ? "" : ` ${unknowns} could not be checked.`;
  if (failures.length > 0) {
    const names = [...new Set(failures.map(({ check }) => check))].join(", ");
    return `It will not work as it is: ${names}.${unchecked}`;
  }
  const warnings = count("warning").length;
  if (warnings > 0) {
    return `Nothing is broken; ${warnings} ${warnings === 1 ? "warning" : "warnings"}.${unchecked}`;
  }
  return unknowns === 0 ? "Nothing is wrong." : `Nothing wrong was found.${unchecked}`;
}

/** Whether anything failed, or a probe that was asked for could not be made: the exit status. */
export function hasFailure(sections: readonly Section[]): boolean {
  return sections.some(({ findings }) =>
    findings.some(({ severity, check }) => {
      return severity === "failure" || (severity === "unknown" && check === "probe");
    }),
  );
}
