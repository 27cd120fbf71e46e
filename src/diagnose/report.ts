/** Findings as text for people. Pure. */

import { printLine } from "../net/printable.ts";
import type { Finding, Severity } from "./checks/finding.ts";
import type { Explanation } from "./explain/explanation.ts";

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
const textColumn = 2 + wordWidth + checkWidth;
/** Narrower than this, texts are left to the terminal. */
const textWidthMin = 20;

/** How findings are shown. */
export interface ReportStyle {
  readonly colors: boolean;
  /** The terminal's width; undefined without a terminal, where a finding is one line. */
  readonly columns: number | undefined;
}

/** Sections one after the other, a line a finding and one for what repairs it, and a last line. */
export function renderSections(sections: readonly Section[], style: ReportStyle): string {
  const blocks = sections.map(({ title, findings }) =>
    [title, ...findings.map((each) => line(each, style))].join("\n"),
  );
  return `${[...blocks, conclusion(sections)].join("\n\n")}\n`;
}

/** The steps of an explanation and its last sentence. */
export function renderExplanation(
  { steps, conclusion: last }: Explanation,
  style: ReportStyle,
): string {
  return `${steps.map((step) => line(step, style)).join("\n")}\n\n${printLine(last)}\n`;
}

function line({ check, severity, text, repair }: Finding, style: ReportStyle): string {
  const word = words[severity].padEnd(wordWidth);
  const shown = style.colors ? `\x1b[${colors[severity]}m${word}\x1b[0m` : word;
  // Names of the kernel's and of others are in it: they neither end the line nor drive a terminal.
  const first = `  ${shown}${check.padEnd(checkWidth)}${inColumn(printLine(text), style.columns)}`;
  if (repair === undefined) return first;
  // A command stays whole: it is there to be pasted.
  return `${first}\n${" ".repeat(textColumn)}repair: ${printLine(repair)}`;
}

/** A text whose further lines begin where its first one does. */
function inColumn(text: string, columns = 0): string {
  const width = columns - textColumn;
  if (width < textWidthMin) return text;
  return Bun.wrapAnsi(text, width).replaceAll("\n", `\n${" ".repeat(textColumn)}`);
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
