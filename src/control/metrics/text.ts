/** Writes the text format of Prometheus, version 0.0.4. Pure. */

/** The Content-Type of the text. */
export const metricsContentType = "text/plain; version=0.0.4; charset=utf-8";

/** Metrics of one name. */
export interface Family<Data> {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  /** One sentence, without its full stop. */
  readonly help: string;
  readonly samples: (data: Data, out: SampleWriter) => void;
}

/** Where a histogram is among numbers: its classes from `at` on, and behind them the sum. */
interface Classes {
  readonly at: number;
  /** Upper bounds, rising; one more class is without a bound. */
  readonly bounds: readonly number[];
}

/** Appends the samples of one family after the other to one text. */
class SampleWriter {
  text = "";
  private name = "";
  /** What stands above the first sample of the family; empty once it is written. */
  private head = "";
  /** What a sample without a suffix begins with. */
  private start = "";

  /** What is added from now on is of this family. */
  begin({ name, type, help }: Omit<Family<never>, "samples">): void {
    this.name = name;
    this.head = `# HELP ${name} ${help}.\n# TYPE ${name} ${type}\n`;
    this.start = `${name}{`;
  }

  /** Adds a sample with these labels, as `labels` makes them; empty: it has none. */
  add(labels: string, value: number): void {
    if (this.head !== "") this.writeHead();
    const number = numberText(value);
    if (labels === "") this.text += `${this.name} ${number}\n`;
    else this.text += `${this.start}${labels}} ${number}\n`;
  }

  /** Adds the samples of a histogram with these labels, which are not empty. */
  histogram(labels: string, values: Float64Array, { at, bounds }: Classes): void {
    if (this.head !== "") this.writeHead();
    const classes = classLabels(bounds);
    const bucket = `${this.name}_bucket{${labels}`;
    let text = "";
    let total = 0;
    for (let place = 0; place < classes.length; place++) {
      total += values[at + place] as number;
      text += `${bucket}${classes[place]}} ${numberText(total)}\n`;
    }
    const sum = numberText(values[at + classes.length] as number);
    text += `${this.name}_sum{${labels}} ${sum}\n`;
    this.text += `${text}${this.name}_count{${labels}} ${numberText(total)}\n`;
  }

  private writeHead(): void {
    this.text += this.head;
    this.head = "";
  }
}

/** The text of all families that have samples. */
export function writeMetrics<Data>(families: readonly Family<Data>[], data: Data): string {
  const out = new SampleWriter();
  for (const family of families) {
    out.begin(family);
    family.samples(data, out);
  }
  return out.text;
}

/** Labels as text. Whatever a value holds, it ends neither the label nor the line. */
export function labels(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${escapeValue(value)}"`)
    .join(",");
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
