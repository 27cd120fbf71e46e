/** Whether other programs' firewall rules give packets the marks of a capture. */

import { SyscallError } from "../../ffi/errno.ts";
import { readCurrentState } from "../capture/live/current-state.ts";
import { foreignMarks, type MarkWrite } from "../capture/live/foreign-marks.ts";
import { openKernel } from "../capture/live/kernel.ts";
import type { Intent } from "../capture/plan/intent.ts";
import { type Finding, ok, warning } from "../diagnose/checks/finding.ts";
import { formatMark, type MaskedMark } from "../net/mark.ts";

/** Empty where the firewall may not be read; another check reports that. */
export function markFindings(intent: Intent): Finding[] {
  const writes = intent.redirect ? undefined : readWrites(intent);
  if (writes === undefined) return [];
  const found = [
    ...findingsOf(intent.mark, "--mark", intent, writes),
    ...(intent.guards.mark ? findingsOf(intent.guards.mark, "--guard-mark", intent, writes) : []),
  ];
  if (found.length > 0) return found;
  return [ok("marks", `No firewall rule of others sets bits of ${formatMark(intent.mark)}.`)];
}

function findingsOf(
  mark: MaskedMark,
  option: string,
  { families }: Intent,
  writes: readonly MarkWrite[],
): Finding[] {
  return foreignMarks(mark, families, writes).map((who) =>
    warning(
      "marks",
      `The mark ${formatMark(mark)} shares bits with ${who}: packets of others are taken for it.`,
      `another ${option}, there or here`,
    ),
  );
}

function readWrites({ table, tag, tableName }: Intent): readonly MarkWrite[] | undefined {
  const kernel = openKernel();
  try {
    return readCurrentState(kernel, { tables: [table], tag, name: tableName }).markWrites;
  } catch (error) {
    if (error instanceof SyscallError) return undefined;
    throw error;
  } finally {
    kernel.close();
  }
}
