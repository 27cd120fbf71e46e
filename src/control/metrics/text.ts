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

const encoder = new TextEncoder();

/** Text as bytes: what is written often is encoded once. */
export function encoded(text: string): Uint8Array {
  return encoder.encode(text);
}

/** No labels. */
export const none = encoded("");
/** In ASCII. */
const [NEWLINE, SPACE, OPEN, CLOSE] = [10, 32, 123, 125];

/**
 * Appends the samples of one family after the other to one buffer: ten thousand lines as a string
 * cost three times as much, most of it to join and encode their parts.
 */
class SampleWriter {
  private bytes: Uint8Array;
  private length = 0;
  /** The start of a line, for each suffix of the name. */
  private starts: Starts = startsOf("");
  /** The text above the first sample of the family; empty once it is written. */
  private head = "";

  /** Begins with room for `room` bytes. */
  constructor(room: number) {
    this.bytes = new Uint8Array(room);
  }

  /** The text so far. */
  get written(): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(0, this.length) as Uint8Array<ArrayBuffer>;
  }

  /** Begins a family: samples from now on are of it. */
  begin({ name, type, help }: Omit<Family<never>, "samples">): void {
    this.starts = startsOf(name);
    this.head = `# HELP ${name} ${help}.\n# TYPE ${name} ${type}\n`;
  }

  /** Adds a sample with these labels, as `labels` makes them, and `more`. */
  add(labels: Uint8Array, value: number, more = none): void {
    if (this.head !== "") this.writeHead();
    this.sample(this.starts.plain, labels, more, value);
  }

  /** Adds the samples of a histogram with these labels, which are not empty. */
  histogram(labels: Uint8Array, values: Float64Array, { at, bounds }: Classes): void {
    if (this.head !== "") this.writeHead();
    const classes = classLabels(bounds);
    let total = 0;
    for (let place = 0; place < classes.length; place++) {
      total += values[at + place] as number;
      this.sample(this.starts.bucket, labels, classes[place] as Uint8Array, total);
    }
    this.sample(this.starts.sum, labels, none, values[at + classes.length] as number);
    this.sample(this.starts.count, labels, none, total);
  }

  private sample(start: Uint8Array, labels: Uint8Array, more: Uint8Array, value: number): void {
    this.reserve(start.length + labels.length + more.length + lineBytesMax);
    this.put(start);
    if (labels !== none) {
      this.bytes[this.length++] = OPEN;
      this.put(labels);
      if (more !== none) this.put(more);
      this.bytes[this.length++] = CLOSE;
    }
    this.bytes[this.length++] = SPACE;
    this.number(value);
    this.bytes[this.length++] = NEWLINE;
  }

  /** All of it is ASCII; to encode so little takes ten times as long. */
  private number(value: number): void {
    const text = numberText(value);
    for (let i = 0; i < text.length; i++) this.bytes[this.length++] = text.charCodeAt(i);
  }

  private put(part: Uint8Array): void {
    this.bytes.set(part, this.length);
    this.length += part.length;
  }

  private writeHead(): void {
    const head = encoded(this.head);
    this.reserve(head.length);
    this.put(head);
    this.head = "";
  }

  private reserve(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = new Uint8Array(2 * (this.length + more));
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes = larger;
  }
}

/** More than a number, braces and the end of a line take. */
const lineBytesMax = 64;

interface Starts {
  readonly plain: Uint8Array;
  readonly bucket: Uint8Array;
  readonly sum: Uint8Array;
  readonly count: Uint8Array;
}

function startsOf(name: string): Starts {
  const of = (suffix: string) => encoded(name + suffix);
  return { plain: of(""), bucket: of("_bucket"), sum: of("_sum"), count: of("_count") };
}

/** As long as the last text was. */
let room = 4_096;

/** The text of all families that have samples. */
export function writeMetrics<Data>(
  families: readonly Family<Data>[],
  data: Data,
): Uint8Array<ArrayBuffer> {
  const out = new SampleWriter(room);
  for (const family of families) {
    out.begin(family);
    family.samples(data, out);
  }
  room = out.written.length + 4_096;
  return out.written;
}

/** Labels as text. Whatever a value holds, it ends neither the label nor the line. */
export function labels(values: Readonly<Record<string, string>>): Uint8Array {
  const all = Object.entries(values).map(([name, value]) => `${name}="${escapeValue(value)}"`);
  return encoded(all.join(","));
}

const knownClasses = new WeakMap<readonly number[], readonly Uint8Array[]>();

/** The labels of the classes: made once, since there are many histograms of a kind. */
function classLabels(bounds: readonly number[]): readonly Uint8Array[] {
  const known = knownClasses.get(bounds);
  if (known !== undefined) return known;
  const made = [...bounds.map(String), "+Inf"].map((bound) => encoded(`,le="${bound}"`));
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
