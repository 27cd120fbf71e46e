/** Completes repairs by tproxy with the options of the command that found the fault. Pure. */

import type { Finding } from "../diagnose/checks/finding.ts";

/** Options of `doctor` that `routes` does not have, and whether a value follows them. */
const ownOptions: ReadonlyMap<string, boolean> = new Map([
  ["--listen", true],
  ["--probe", true],
  ["--udp", false],
  ["--json", false],
]);

/** Makes repairs that can be pasted; `args` are those of `doctor` or `explain`. */
export function withWholeRepairs(findings: readonly Finding[], args: readonly string[]): Finding[] {
  return findings.map((finding) =>
    finding.repair === undefined ? finding : { ...finding, repair: whole(finding.repair, args) },
  );
}

function whole(repair: string, args: readonly string[]): string {
  if (/^sudo tproxy (doctor|explain)\b/.test(repair)) return `sudo tproxy ${shellLine(args)}`;
  const [, action, more = ""] = /^tproxy routes --(print|apply|check)\b(.*)$/.exec(repair) ?? [];
  const capture = args[0] === "doctor" ? captureOptions(args.slice(1)) : [];
  if (action === undefined || capture.length === 0) return repair;
  const added = more.split(" ").filter((word) => word !== "" && word !== "…");
  const missing = capture.includes(added[0] ?? "") ? [] : added;
  const verb = action === "check" ? "--check" : "--apply";
  return `sudo tproxy routes ${verb} ${shellLine([...capture, ...missing])}`;
}

/** The options of `doctor` about the capture. */
function captureOptions(args: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] as string;
    const [name = ""] = arg.split("=", 1);
    const hasValue = ownOptions.get(name);
    if (hasValue === undefined) kept.push(arg);
    else if (hasValue && name === arg) i++;
  }
  return kept;
}

function shellLine(words: readonly string[]): string {
  return words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(" ");
}
