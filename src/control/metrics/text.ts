/** Writes the text format of Prometheus, version 0.0.4. Pure. */

/** The Content-Type of the text. */
export const metricsContentType = "text/plain; version=0.0.4; charset=utf-8";

/** Adds a sample: its labels as `labels` makes them, its value, and a suffix of the name. */
export type AddSample = (labels: string, value: number, suffix?: string) => void;

/** Metrics of one name. */
export interface Family<Data> {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  /** One sentence, without its full stop. */
  readonly help: string;
  readonly samples: (data: Data, add: AddSample) => void;
}

/** The text of all families that have samples. */
export function writeMetrics<Data>(families: readonly Family<Data>[], data: Data): string {
  let text = "";
  for (const { name, type, help, samples } of families) {
    let hasSamples = false;
    samples(data, (labels, value, suffix = "") => {
      if (!hasSamples) text += `# HELP ${name} ${help}.\n# TYPE ${name} ${type}\n`;
      hasSamples = true;
      const head = suffix === "" ? name : name + suffix;
      const of = labels === "" ? " " : `{${labels}} `;
      text += `${head}${of}${numberText(value)}\n`;
    });
  }
  return text;
}

/** Labels as text. Whatever a value holds, it ends neither the label nor the line. */
export function labels(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${escapeValue(value)}"`)
    .join(",");
}

/** A histogram: counts by class, and one more class without an upper bound. */
interface Classes {
  readonly bounds: readonly number[];
  readonly counts: readonly number[];
  readonly sum: number;
}

/** Adds the samples of a histogram with the labels `of`, which are not empty. */
export function addHistogram(add: AddSample, of: string, { bounds, counts, sum }: Classes): void {
  const classes = classLabels(bounds);
  let total = 0;
  for (let place = 0; place < classes.length; place++) {
    total += counts[place] as number;
    add(of + classes[place], total, "_bucket");
  }
  add(of, sum, "_sum");
  add(of, total, "_count");
}

const knownClasses = new WeakMap<readonly number[], readonly string[]>();

/** The labels of the classes: made once, since there are many histograms of a kind. */
function classLabels(bounds: readonly number[]): readonly string[] {
  const known = knownClasses.get(bounds);
  if (known !== undefined) return known;
  const made = [...bounds.map(String), "+Inf"].map((bound) => `,le="${bound}"`);
  knownClasses.set(bounds, made);
  return made;
}

function escapeValue(value: string): string {
  if (!/[\\"\n]/.test(value)) return value;
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function numberText(value: number): string {
  if (Number.isFinite(value)) return String(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}
