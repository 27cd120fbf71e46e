/** The last lines of the log, and who wants to see the next ones. */

import type { LevelName } from "./level.ts";

/** A line of the log, for people and for programs. */
export interface LogEntry {
  /** In ms since 1970. */
  readonly time: number;
  readonly level: LevelName;
  /** Without the time, and without the end of the line. */
  readonly text: string;
  /** The same as JSON has it, without time and level. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** How many there are. */
const entriesMax = 1_000;

/** Makes a line when somebody wants to see it: most are never looked at. */
export type LazyEntry = () => LogEntry;

export class RecentLines {
  private readonly entries: LazyEntry[] = [];
  private next = 0;
  private readonly followers = new Set<(entry: LogEntry) => void>();

  add(entry: LazyEntry): void {
    this.entries[this.next] = entry;
    this.next = (this.next + 1) % entriesMax;
    if (this.followers.size === 0) return;
    const made = entry();
    for (const follower of this.followers) follower(made);
  }

  /** The last lines, the oldest first. */
  list(): LogEntry[] {
    const { entries, next } = this;
    const ordered =
      entries.length < entriesMax ? entries : [...entries.slice(next), ...entries.slice(0, next)];
    return ordered.map((entry) => entry());
  }

  /** Calls `follower` for each line from now on, until the function that is returned is called. */
  follow(follower: (entry: LogEntry) => void): () => void {
    this.followers.add(follower);
    return () => void this.followers.delete(follower);
  }
}
