/**
 * What may happen thousands of times a second, said once an interval: the first time at once, then,
 * at the end of each interval in which it happened again, how often. Pure: the time is handed in.
 */

/** Something to say now. */
export interface Occasion {
  readonly text: string;
  /** How often since the last time that it was said; 1 the first time. */
  readonly times: number;
}

interface Kind {
  /** The newest text of this kind. */
  text: string;
  /** Since it was last said. */
  times: number;
  /** When it may be said again. */
  due: number;
}

export class Occasions {
  private readonly kinds = new Map<string, Kind>();
  private readonly intervalMs: number;

  constructor(intervalMs: number) {
    this.intervalMs = intervalMs;
  }

  /** `kind` has happened at `now`; answers what to say at once. Kinds are few and fixed. */
  note(kind: string, text: string, now: number): Occasion | undefined {
    const known = this.kinds.get(kind);
    if (known !== undefined) {
      known.text = text;
      known.times++;
      return undefined;
    }
    this.kinds.set(kind, { text, times: 0, due: now + this.intervalMs });
    return { text, times: 1 };
  }

  /** What is due by `now`. A kind that has not happened for an interval begins anew. */
  take(now: number): Occasion[] {
    const due: Occasion[] = [];
    for (const [name, kind] of this.kinds) {
      if (kind.due > now) continue;
      if (kind.times === 0) {
        this.kinds.delete(name);
        continue;
      }
      due.push({ text: kind.text, times: kind.times });
      kind.times = 0;
      kind.due = now + this.intervalMs;
    }
    return due;
  }

  /** When `take` is to be called next; undefined when there is nothing to wait for. */
  get next(): number | undefined {
    let next: number | undefined;
    for (const { due } of this.kinds.values()) next = Math.min(due, next ?? due);
    return next;
  }
}
