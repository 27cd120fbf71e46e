/** Samples of things measured in turns, and the table that compares their medians. */

export interface Series {
  readonly name: string;
  readonly samples: readonly number[];
}

export interface Row {
  readonly name: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The middle of the sorted samples; of an even number, the mean of the middle two. */
export function median(samples: readonly number[]): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  if (low === undefined || high === undefined) throw new RangeError("no samples");
  return (low + high) / 2;
}

export function summary({ name, samples }: Series): Row {
  return {
    name,
    median: median(samples),
    min: Math.min(...samples),
    max: Math.max(...samples),
  };
}

/** Collects samples by name, in the order in which the names first came. */
export class Recorder {
  private readonly byName = new Map<string, number[]>();

  add(name: string, sample: number): void {
    const samples = this.byName.get(name);
    if (samples === undefined) this.byName.set(name, [sample]);
    else samples.push(sample);
  }

  get series(): Series[] {
    return [...this.byName].map(([name, samples]) => ({ name, samples }));
  }

  median(name: string): number {
    return median(this.byName.get(name) ?? []);
  }
}

/** A Markdown table; all columns but the first are aligned to the right. */
export function markdownTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, at) => pad(cell, widths[at] ?? 0, at > 0)).join(" | ")} |`;
  const rule = widths.map((width, at) => `${"-".repeat(width + 1)}${at > 0 ? ":" : "-"}`).join("|");
  return [line(head), `|${rule}|`, ...rows.map(line)].join("\n");
}

const pad = (text: string, width: number, right: boolean) =>
  right ? text.padStart(width) : text.padEnd(width);
