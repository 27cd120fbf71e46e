/** Tables of text that fit a terminal. Pure. */

import { printLine } from "../net/printable.ts";

export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
  /** Whether the column may be left out where there is no room; the last ones go first. */
  readonly isOptional?: boolean;
}

const gap = "  ";
/** No column is made narrower than this. */
const narrowest = 8;

/**
 * The lines of a table, each with its end. In `columns` characters, if that is given: optional
 * columns are left out, then the widest ones are shortened.
 */
export function tableText(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  room: number | undefined,
): string {
  const cells = [columns.map(({ title }) => title), ...rows.map((row) => row.map(printLine))];
  const widths = columns.map((_, at) =>
    Math.max(...cells.map((row) => Bun.stringWidth(row[at] ?? ""))),
  );
  const shown = columns.map((_, at) => at);
  if (room !== undefined) fit(columns, widths, shown, room);
  return cells
    .map((row) => {
      const line = shown.map((at) => {
        const text = shortened(row[at] ?? "", widths[at] as number);
        const padding = " ".repeat((widths[at] as number) - Bun.stringWidth(text));
        return columns[at]?.align === "right" ? padding + text : text + padding;
      });
      return `${line.join(gap).trimEnd()}\n`;
    })
    .join("");
}

/** Leaves columns out of `shown` and lowers `widths` until all has room, as far as that goes. */
function fit(columns: readonly Column[], widths: number[], shown: number[], room: number): void {
  const width = () =>
    shown.reduce((sum, at) => sum + (widths[at] as number) + gap.length, -gap.length);
  while (width() > room) {
    const last = shown.findLastIndex((at) => columns[at]?.isOptional === true);
    if (last < 0) break;
    shown.splice(last, 1);
  }
  while (width() > room) {
    const widest = shown.reduce((most, at) =>
      (widths[at] as number) > (widths[most] as number) ? at : most,
    );
    if ((widths[widest] as number) <= narrowest) return;
    widths[widest] = (widths[widest] as number) - 1;
  }
}

function shortened(text: string, width: number): string {
  if (Bun.stringWidth(text) <= width) return text;
  let kept = "";
  for (const character of text) {
    if (Bun.stringWidth(kept + character) > width - 1) break;
    kept += character;
  }
  return `${kept}…`;
}
