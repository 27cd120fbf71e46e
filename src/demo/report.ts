/** The demo's output: a transcript for people, or one JSON object a line for programs. */

import type { Sink } from "../log/sink.ts";
import { jsonLine } from "../log/transcript.ts";

/** A claim of the demo, and whether it is true. */
export interface Claim {
  /** A name for programs. */
  readonly step: string;
  readonly text: string;
  readonly ok: boolean;
  /** The kernel's evidence. */
  readonly evidence: Readonly<Record<string, unknown>>;
  /** For people, under the claim: why it is so. */
  readonly because?: readonly string[];
}

/** How all of it went. */
export interface Summary {
  readonly acts: readonly { readonly act: number; readonly title: string; readonly ok: boolean }[];
  /** The scenarios that this host does not allow. */
  readonly skipped: readonly string[];
}

export interface Report {
  /** How many claims there have been, and how many of them were not true. */
  readonly claims: number;
  readonly failed: number;
  begin(): void;
  act(number: number, title: string, intro: string): void;
  /** The command that a user would type for this step. */
  commands(lines: readonly string[]): void;
  /** Lines that a program has printed. */
  output(program: string, text: string): void;
  note(text: string): void;
  claim(claim: Claim): void;
  skip(reason: string): void;
  end(summary: Summary): void;
  interrupted(): void;
  /** Settles when all of it has been written. */
  flush(): Promise<void>;
}

const widthMax = 100;
const UNCHANGED = "Nothing on this machine was changed.";

abstract class Writer {
  private readonly sink: Sink;
  private written: Promise<unknown> = Promise.resolve();
  claims = 0;
  failed = 0;

  constructor(sink: Sink) {
    this.sink = sink;
  }

  async flush(): Promise<void> {
    await this.written;
  }

  claim(claim: Claim): void {
    this.claims++;
    if (!claim.ok) this.failed++;
    this.writeClaim(claim);
  }

  protected abstract writeClaim(claim: Claim): void;

  protected write(text: string): void {
    this.written = Promise.all([this.written, this.sink.write(text)]);
  }
}

/** The transcript for people, at most 100 columns wide. */
export class TextReport extends Writer implements Report {
  private readonly style: Style;
  private readonly width: number;

  constructor(sink: Sink) {
    super(sink);
    this.style = sink.colors ? colors : plain;
    this.width = Math.min(widthMax, sink.columns ?? widthMax);
  }

  begin(): void {
    const what = "Five acts in network namespaces of their own, which end with this process.";
    this.write(this.wrap(what, ""));
  }

  act(number: number, title: string, intro: string): void {
    this.write(`\n${this.style.title(`Act ${number}: ${title}`)}\n`);
    this.write(this.wrap(intro, "  "));
  }

  commands(lines: readonly string[]): void {
    let isInput = false;
    for (const line of lines) {
      this.write(`${this.style.faint(this.foldCommand(line, isInput ? "    " : "  # "))}\n`);
      isInput = line.endsWith("<<'EOF'") || (isInput && line !== "EOF");
    }
  }

  output(program: string, text: string): void {
    for (const line of text.replace(/\n$/, "").split("\n")) {
      this.write(`  ${this.style.faint(`${program} |`)} ${line}\n`.replace(/ +\n$/, "\n"));
    }
  }

  note(text: string): void {
    this.write(this.wrap(text, "  "));
  }

  protected writeClaim({ ok, text, because = [] }: Claim): void {
    const sign = ok ? this.style.good("✓") : this.style.bad("✗");
    this.write(`  ${sign} ${this.wrap(text, "    ").trimStart()}`);
    for (const line of because) this.write(this.style.faint(this.wrap(line, "      ")));
  }

  skip(reason: string): void {
    this.write(this.wrap(`Not played: ${reason}.`, "  "));
  }

  end({ acts, skipped }: Summary): void {
    const { claims, failed } = this;
    const left = skipped.length === 0 ? "" : ` (${skipped.length} not played)`;
    const played = `${acts.length} acts${left}, ${claims} claims`;
    const wrong = acts.filter(({ ok }) => !ok).map(({ act }) => act);
    const verdict =
      failed === 0
        ? this.style.good(`✓ ${played}, all of them true.`)
        : this.style.bad(`✗ ${played}, ${failed} not true (act ${wrong.join(", ")}).`);
    this.write(`\n${verdict} ${UNCHANGED}\n`);
  }

  interrupted(): void {
    this.write(`\nInterrupted. ${UNCHANGED}\n`);
  }

  /** Text in lines that fit, each behind the indent and ended. */
  private wrap(text: string, indent: string): string {
    return `${fold(text, indent, indent, this.width).join("\n")}\n`;
  }

  /** A command in lines that fit, joined by a backslash as a shell and nft read it. */
  private foldCommand(command: string, head: string): string {
    const own = /^ */.exec(command)?.[0] ?? "";
    const lines = fold(command.trim(), `${head}${own}`, `    ${own}  `, this.width - 2);
    return lines.join(" \\\n");
  }
}

/** One object a line: `act`, `step`, `ok`, `claim`, `evidence`; the last one has `summary`. */
export class JsonReport extends Writer implements Report {
  private current = 0;

  begin(): void {}

  act(number: number): void {
    this.current = number;
  }

  commands(): void {}

  output(): void {}

  note(): void {}

  protected writeClaim({ step, ok, text, evidence }: Claim): void {
    this.write(jsonLine({ act: this.current, step, ok, claim: text, evidence }));
  }

  skip(reason: string): void {
    this.write(jsonLine({ act: this.current, step: "skipped", ok: null, evidence: { reason } }));
  }

  end(summary: Summary): void {
    const { claims, failed } = this;
    const ok = failed === 0;
    this.write(jsonLine({ summary: true, ok, ...summary, claims, failed, changed: [] }));
  }

  interrupted(): void {
    this.write(jsonLine({ summary: true, ok: false, interrupted: true, changed: [] }));
  }
}

interface Style {
  title(text: string): string;
  good(text: string): string;
  bad(text: string): string;
  faint(text: string): string;
}

const sgr = (code: number) => (text: string) => `\x1b[${code}m${text}\x1b[0m`;
const colors: Style = { title: sgr(1), good: sgr(32), bad: sgr(31), faint: sgr(2) };
const same = (text: string) => text;
const plain: Style = { title: same, good: same, bad: same, faint: same };

/** Words in lines of at most `width` columns; what is too long for a line has one of its own. */
function fold(text: string, head: string, indent: string, width: number): string[] {
  const lines: string[] = [];
  let line = head;
  let isEmpty = true;
  for (const word of text.split(" ")) {
    if (!isEmpty && line.length + 1 + word.length > width) {
      lines.push(line);
      line = indent;
      isEmpty = true;
    }
    line += isEmpty ? word : ` ${word}`;
    isEmpty = false;
  }
  return [...lines, line];
}
