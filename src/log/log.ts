/**
 * What a command that serves logs, on standard output. Traffic does not wait for it: Workers drop
 * what a slow reader, or a full disk, does not take, and a line says how many lines were lost. With
 * `lossless` they wait instead. Lines of connections may go to a file, and others to the journal.
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
import { FileSink } from "./file-sink.ts";
import { encodeJournalEntry } from "./journal-entry.ts";
import { JournalSink } from "./journal-sink.ts";
import { isLogged, type LevelName, levelOf, priorities } from "./level.ts";
import { type LogEntry, RecentLines } from "./recent.ts";
import type { LogSink, LostLog, Sink } from "./sink.ts";
import { type LogTime, timeStamp } from "./time.ts";
import {
  type AboutService,
  eventFields,
  JsonTranscript,
  jsonLine,
  TextTranscript,
  type Transcript,
  timeOf,
} from "./transcript.ts";

/** How a command logs. */
export interface LogSettings {
  /** Of what Workers do not name the protocol of. */
  readonly protocol: "tcp" | "udp";
  /**
   * `auto` is text, to the journal with the priority of each line; `journal` sends what is no usual
   * connection to the journal with its fields.
   */
  readonly format?: "auto" | "text" | "json" | "journal" | undefined;
  /** Of the text; by default local time, and none for the journal, which has its own. */
  readonly time?: LogTime | undefined;
  /** More fields of JSON for a service. */
  readonly about?: AboutService;
  /** Whether lines of text name their service, at this moment; by default they do not. */
  readonly namesServices?: () => boolean;
  /** Of `LogLevel`; warnings are left out below theirs. */
  readonly level?: number;
  /** Where lines of connections go, in place of standard output. */
  readonly file?: string | undefined;
  /** Nothing is lost: a slow reader slows the traffic, and a full disk ends the command. */
  readonly lossless: boolean;
  /** The command goes on when nobody reads the log any more. */
  readonly outlivesReader?: boolean;
}

export class Log {
  readonly lossless: boolean;
  /** Called when `level` has changed. */
  onLevel: () => void = () => {};
  private readonly settings: LogSettings;
  private readonly stdout: LogSink;
  private readonly stderr: Sink;
  private readonly transcript: Transcript;
  /** For the file: with a time, whatever standard output has. */
  private readonly fileTranscript: Transcript;
  private readonly stamp: (time: number) => string;
  private readonly priority: (level: LevelName) => string;
  private readonly rateLimited = new RateLimitedLog(warningIntervalMs, warningKindsMax);
  private readonly recentLines = new RecentLines();
  private readonly file: FileSink | undefined;
  private readonly journal: JournalSink | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Lines of our own that found no room, since that was last logged, and in all. */
  private lostLines = 0;
  private lostOfStdout = 0;
  private changedLevel:
    | {
        level: LevelName;
        end: ReturnType<typeof setTimeout> | undefined;
        endTime: number | undefined;
      }
    | undefined;

  /** @throws CommandError where the file cannot be opened */
  constructor({ stdout, stderr, mayLoseOutput }: LogIo, settings: LogSettings) {
    const { protocol, format = "auto", lossless, outlivesReader = false } = settings;
    this.settings = settings;
    this.lossless = lossless;
    this.stdout = stdout;
    this.stderr = stderr;
    const isToJournal = isJournal();
    this.stamp = timeStamp(settings.time ?? (isToJournal ? "none" : "local"));
    const hasPriorities = isToJournal && format !== "text";
    this.priority = hasPriorities ? (level) => `<${priorities[level]}>` : () => "";
    const isJson = format === "json";
    const prefixOf = (service: string | undefined) => this.prefixOf(service);
    this.transcript = isJson
      ? new JsonTranscript(protocol, Date.now, settings.about)
      : new TextTranscript(protocol, { stamp: this.stamp, priority: this.priority, prefixOf });
    this.fileTranscript = isJson
      ? this.transcript
      : new TextTranscript(protocol, { stamp: timeStamp(settings.time ?? "local"), prefixOf });
    const { file } = settings;
    this.file = file === undefined ? undefined : new FileSink(file, (why) => this.lose(why));
    this.journal =
      format === "journal" ? new JournalSink((why) => this.complain(`journal: ${why}`)) : undefined;
    if (lossless) return;
    mayLoseOutput({
      closed: (code) => {
        if (outlivesReader) {
          this.complain(`standard output: ${code}: nobody reads the log, and the traffic goes on`);
        }
        return outlivesReader;
      },
      failing: (code) =>
        this.complain(`standard output: ${code}: the log waits, and the traffic goes on`),
    });
  }

  /** Logs a batch; settles when there is room for another one. */
  readonly print = (events: readonly WorkerEvent[]): Promise<void> => {
    let text = this.lostLine();
    let lines = "";
    for (const event of events) {
      if (!this.isWanted(event)) continue;
      this.remember(event);
      if (this.file !== undefined && isConnection(event))
        lines += this.fileTranscript.render(event);
      else if (this.journal !== undefined && !isUsualConnection(event)) this.send(event);
      else text += this.transcript.render(event);
    }
    this.file?.write(lines);
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

  /** The text in front of a service's line: its name, where there are several services. */
  prefixOf(service: string | undefined): string {
    const { namesServices } = this.settings;
    return service !== undefined && namesServices?.() === true ? `${service}: ` : "";
  }

  /** Logs something that happens once: as an object in JSON, as a line of text otherwise. */
  note(text: string, fields: { event: string; level?: LevelName; [field: string]: unknown }): void {
    const { level = "info" } = fields;
    const time = Date.now();
    this.recentLines.add(() => ({ time, level, text: text.trim(), fields }));
    if (this.journal !== undefined) {
      return this.journal.send(
        encodeJournalEntry(level, text.trim(), { ...fields, level: undefined }),
      );
    }
    const line =
      this.settings.format === "json"
        ? jsonLine({ level, ...fields }, new Date(time))
        : `${this.priority(level)}${this.stamp(time)}${text}\n`;
    void this.stdout.write(line);
  }

  /** The last lines, the oldest first. */
  recent(): LogEntry[] {
    return this.recentLines.list();
  }

  /** Calls `follower` for each line from now on, until the function that is returned is called. */
  follow(follower: (entry: LogEntry) => void): () => void {
    return this.recentLines.follow(follower);
  }

  /** The level that was set at run time; undefined: each service has its own. */
  get level(): LevelName | undefined {
    return this.changedLevel?.level;
  }

  /** When that level ends, in ms since 1970; undefined: it stays. */
  get levelEnd(): number | undefined {
    return this.changedLevel?.endTime;
  }

  /**
   * Changes the level of everything; undefined: as it was set before. After `forMs`, unless it is
   * 0, it falls back by itself.
   */
  setLevel(level: LevelName | undefined, forMs = 0): void {
    clearTimeout(this.changedLevel?.end);
    const end = forMs > 0 ? setTimeout(() => this.setLevel(undefined), forMs) : undefined;
    const endTime = end === undefined ? undefined : Date.now() + forMs;
    this.changedLevel = level === undefined ? undefined : { level, end, endTime };
    this.onLevel();
    const text =
      level === undefined ? "the log level is as it is set" : `the log level is ${level}`;
    this.note(`[ ] ${text}`, {
      event: "log-level",
      value: level,
      seconds: forMs / 1000 || undefined,
    });
  }

  /** Opens the file again, as after it was renamed. */
  reopen(): void {
    this.file?.reopen();
  }

  /** How many lines the main thread has dropped, by where they were to go. */
  get lost(): Readonly<Record<string, number>> {
    const { file, journal } = this;
    return {
      stdout: this.lostOfStdout,
      ...(file === undefined ? {} : { file: file.lost }),
      ...(journal === undefined ? {} : { journal: journal.lost }),
    };
  }

  /** The command ends: what is left is logged, and nothing waits for the reader any more. */
  end(): void {
    clearTimeout(this.timer);
    clearTimeout(this.changedLevel?.end);
    this.stdout.endWaiting();
    this.warnings(this.rateLimited.rest());
  }

  private isWanted(event: WorkerEvent): boolean {
    const { kind } = event;
    if (kind !== "warning" && kind !== "lost") return true;
    const { level } = this;
    return isLogged(
      "warning",
      level === undefined ? (this.settings.level ?? LogLevel.info) : LogLevel[level],
    );
  }

  private remember(event: WorkerEvent): void {
    const time = timeOf(event);
    if (event.kind !== "tableEnd") this.recentLines.add(() => this.entryOf(event, time));
  }

  private entryOf(event: WorkerEvent, time: number): LogEntry {
    const { protocol, about } = this.settings;
    const text = new TextTranscript(protocol).render(event).trimEnd();
    return { time, level: levelOf(event), text, fields: eventFields(event, protocol, about) ?? {} };
  }

  private send(event: WorkerEvent): void {
    const { level, text, fields } = this.entryOf(event, 0);
    if (event.kind === "tableEnd" || text === "") return;
    this.journal?.send(encodeJournalEntry(level, text, { ...fields, level: undefined }));
  }

  private warnings(lines: readonly RateLimitedLine[]): void {
    if (lines.length === 0) return;
    if (this.stdout.pending > logBytesMax) {
      this.lostLines += lines.length;
      this.lostOfStdout += lines.length;
    } else void this.print(lines.map(({ text }) => ({ kind: "warning", text })));
  }

  private awaitSummaries(): void {
    const { next } = this.rateLimited;
    if (this.timer !== undefined || next === undefined) return;
    this.timer = setTimeout(
      () => {
        this.timer = undefined;
        this.warnings(this.rateLimited.take(performance.now()));
        this.awaitSummaries();
      },
      Math.max(0, next - performance.now()),
    );
  }

  private lostLine(): string {
    const { lostLines: lines } = this;
    if (lines === 0) return "";
    this.lostLines = 0;
    return this.transcript.render({ kind: "lost", lines });
  }

  /** Lines of connections were dropped: warns once an interval. */
  private lose(why: string): void {
    const text = `lines of the log were dropped, and the traffic goes on: ${why}`;
    if (this.rateLimited.admit(text, performance.now())) this.warnings([{ text }]);
    this.awaitSummaries();
  }

  /** Warns on standard error, once an interval for each text. */
  private complain(text: string): void {
    if (!this.rateLimited.admit(text, performance.now())) return;
    void this.stderr.write(`tproxy: ${text}\n`);
    this.awaitSummaries();
  }
}

/** The parts of the process that a log needs. */
export interface LogIo {
  readonly stdout: LogSink;
  readonly stderr: Sink;
  /**
   * From now on a full disk, or a slow reader, ends nothing: `lost` is told instead, and what is
   * not written is no failure of the command.
   */
  mayLoseOutput(lost: LostLog): void;
}

/** Whether a line is about a forwarded connection or session, and nobody has asked for it. */
function isConnection(event: WorkerEvent): boolean {
  return "idleMs" in event && event.kind !== "open";
}

function isUsualConnection(event: WorkerEvent): boolean {
  return isConnection(event) && levelOf(event) !== "warning";
}

/** Whether standard output is the journal's socket (systemd.exec(5), $JOURNAL_STREAM). */
function isJournal(): boolean {
  const { JOURNAL_STREAM: stream } = process.env;
  if (stream === undefined) return false;
  const { dev, ino } = fstatSync(1);
  return stream === `${dev}:${ino}`;
}
