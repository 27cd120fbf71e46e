/**
 * What a command that serves logs, on standard output. Traffic does not wait for it: Workers drop
 * what a slow reader, or a full disk, does not take, and a line says how many lines were lost. With
 * `lossless` they wait instead.
 */

import { fstatSync } from "node:fs";
import {
  failureLinesMax,
  logBytesMax,
  warningIntervalMs,
  warningKindsMax,
} from "../engine/limits.ts";
import { LogLevel, type WorkerEvent } from "../workers/protocol.ts";
import { type RateLimitedLine, RateLimitedLog } from "../workers/rate-limited-log.ts";
import type { LogSink, LostLog, Sink } from "./sink.ts";
import { type LogTime, timeStamp } from "./time.ts";
import { JsonTranscript, jsonLine, TextTranscript, type Transcript } from "./transcript.ts";

/** How a command logs. */
export interface LogSettings {
  /** Of what Workers do not name the protocol of. */
  readonly protocol: "tcp" | "udp";
  readonly json: boolean;
  /** Of the text; by default local time, and none for the journal, which has its own. */
  readonly time?: LogTime | undefined;
  /** Of `LogLevel`; warnings are left out below theirs. */
  readonly level?: number;
  /** Nothing is lost: a slow reader slows the traffic, and a full disk ends the command. */
  readonly lossless: boolean;
  /** The command goes on when nobody reads the log any more. */
  readonly outlivesReader?: boolean;
  /** Whether lines of text name their service, at this moment; by default they do not. */
  readonly namesServices?: () => boolean;
}

export class Log {
  readonly lossless: boolean;
  private readonly settings: LogSettings;
  private readonly stdout: LogSink;
  private readonly stderr: Sink;
  private readonly transcript: Transcript;
  private readonly stamp: (time: number) => string;
  private readonly rateLimited = new RateLimitedLog(warningIntervalMs, warningKindsMax);
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Lines of our own that found no room, since that was last logged. */
  private lostLines = 0;

  constructor({ stdout, stderr, mayLoseOutput }: LogIo, settings: LogSettings) {
    const { protocol, json, lossless, outlivesReader = false } = settings;
    this.settings = settings;
    this.lossless = lossless;
    this.stdout = stdout;
    this.stderr = stderr;
    this.stamp = timeStamp(settings.time ?? (isJournal() ? "none" : "local"));
    this.transcript = json
      ? new JsonTranscript(protocol)
      : new TextTranscript(protocol, this.stamp, (service) => this.prefixOf(service));
    if (lossless) return;
    mayLoseOutput({
      closed: (code) => {
        if (outlivesReader) this.complain(`${code}: nobody reads the log, and the traffic goes on`);
        return outlivesReader;
      },
      failing: (code) => this.complain(`${code}: the log waits, and the traffic goes on`),
    });
  }

  /** Logs a batch; settles when there is room for another one. */
  readonly print = (events: readonly WorkerEvent[]): Promise<void> => {
    let text = this.lostLine();
    for (const event of events) if (this.isWanted(event)) text += this.transcript.render(event);
    void this.stdout.write(text);
    return this.stdout.room(this.lossless ? 0 : logBytesMax);
  };

  /** Logs what the main thread warns of; bounded by kind and time like what Workers warn of. */
  warn(text: string): void {
    if (this.rateLimited.admit(text, performance.now(), { burst: failureLinesMax })) {
      this.warnings([{ text }]);
    }
    this.awaitSummaries();
  }

  /** What is in front of a line of text that is of a service: its name, where there are several. */
  prefixOf(service: string | undefined): string {
    const { namesServices } = this.settings;
    return service !== undefined && namesServices?.() === true ? `${service}: ` : "";
  }

  /** Logs something that happens once: as an object with --json, as a line of text otherwise. */
  note(text: string, fields: { event: string; [field: string]: unknown }): void {
    const line = this.settings.json ? jsonLine(fields) : `${this.stamp(Date.now())}${text}\n`;
    void this.stdout.write(line);
  }

  /** The command ends: what is left is logged, and nothing waits for the reader any more. */
  end(): void {
    clearTimeout(this.timer);
    this.stdout.endWaiting();
    this.warnings(this.rateLimited.rest());
  }

  private isWanted({ kind }: WorkerEvent): boolean {
    const { level = LogLevel.info } = this.settings;
    return (kind !== "warning" && kind !== "lost") || level >= LogLevel.warning;
  }

  private warnings(lines: readonly RateLimitedLine[]): void {
    if (lines.length === 0) return;
    if (this.stdout.pending > logBytesMax) this.lostLines += lines.length;
    else void this.print(lines.map(({ text }) => ({ kind: "warning", text })));
  }

  private awaitSummaries(): void {
    const { next } = this.rateLimited;
    if (this.timer !== undefined || next === undefined) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.warnings(this.rateLimited.take(performance.now()));
      this.awaitSummaries();
    }, next - performance.now());
  }

  private lostLine(): string {
    const { lostLines: lines } = this;
    if (lines === 0) return "";
    this.lostLines = 0;
    return this.transcript.render({ kind: "lost", lines });
  }

  /** On standard error; a disk that is full now and then is told of once an interval. */
  private complain(text: string): void {
    if (!this.rateLimited.admit(`standard output: ${text}`, performance.now())) return;
    void this.stderr.write(`tproxy: standard output: ${text}\n`);
    this.awaitSummaries();
  }
}

/** What a log needs of the process. */
export interface LogIo {
  readonly stdout: LogSink;
  readonly stderr: Sink;
  /**
   * From now on a full disk, or a slow reader, ends nothing: `lost` is told instead, and what is
   * not written is no failure of the command.
   */
  mayLoseOutput(lost: LostLog): void;
}

/** Whether standard output is the journal's socket (systemd.exec(5), $JOURNAL_STREAM). */
function isJournal(): boolean {
  const { JOURNAL_STREAM: stream } = process.env;
  if (stream === undefined) return false;
  const { dev, ino } = fstatSync(1);
  return stream === `${dev}:${ino}`;
}
