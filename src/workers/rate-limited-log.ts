/**
 * Lines that a peer, or anybody else, can cause thousands of times a second. Of each kind the
 * first are logged at once; what follows within the interval is counted, and one line at its end
 * says how many there were. All threads of all commands decide by it. Pure: time is handed in.
 */

/** How one line is counted. */
export interface LineOptions {
  /** How many occasions the line stands for; 1 by default. */
  readonly amount?: number;
  /** Lines of one kind are counted together, whatever their text; by default the text itself. */
  readonly kind?: string;
  /** So many lines of the kind are logged in an interval before others are only counted. */
  readonly burst?: number;
  /** Lines above the burst are left out and counted nowhere: another line counts them. */
  readonly isCounted?: boolean;
  /** The service of the line: the lines of each are counted apart. */
  readonly service?: string | undefined;
}

/** A line that stands for many. */
export interface RateLimitedLine {
  readonly text: string;
  readonly service?: string | undefined;
}

interface Kind {
  /** The newest text of this kind. */
  text: string;
  readonly service: string | undefined;
  /** Lines logged in this interval. */
  logged: number;
  /** Occasions that no line has counted yet. */
  counted: number;
  /** When the interval ends. */
  due: number;
}

const OTHERS = "warnings of other kinds";

export class RateLimitedLog {
  private readonly kinds = new Map<string, Kind>();
  private readonly intervalMs: number;
  private readonly kindsMax: number;

  /** Memory is bounded by `kindsMax` kinds at once; all others are counted together. */
  constructor(intervalMs: number, kindsMax: number) {
    this.intervalMs = intervalMs;
    this.kindsMax = kindsMax;
  }

  /** Something has happened at `now` (ms). Returns whether its line is to be logged at once. */
  admit(text: string, now: number, options: LineOptions = {}): boolean {
    const { amount = 1, kind = text, burst = 1, isCounted = true, service } = options;
    const name = service === undefined ? kind : `${service} ${kind}`;
    const known = this.kinds.get(name) ?? this.begin(name, text, now, service);
    if (known === undefined) return isCounted && this.countOther(amount, now);
    known.text = text;
    const isLogged = known.logged < burst;
    if (isLogged) known.logged++;
    if (isCounted) known.counted += isLogged ? amount - 1 : amount;
    return isLogged;
  }

  /** The summaries that are due by `now`. A kind that was quiet for an interval begins anew. */
  take(now: number): RateLimitedLine[] {
    const lines: RateLimitedLine[] = [];
    for (const [name, kind] of this.kinds) {
      if (kind.due > now) continue;
      if (kind.counted === 0) {
        this.kinds.delete(name);
        continue;
      }
      lines.push(summary(kind));
      kind.counted = 0;
      kind.due = now + this.intervalMs;
    }
    return lines;
  }

  /** The summaries of all that has been counted and not been told; for the end. */
  rest(): RateLimitedLine[] {
    const lines = [...this.kinds.values()].filter(({ counted }) => counted > 0).map(summary);
    this.kinds.clear();
    return lines;
  }

  /** When `take` is to be called next; undefined when there is nothing to wait for. */
  get next(): number | undefined {
    let next: number | undefined;
    for (const { due } of this.kinds.values()) next = Math.min(due, next ?? due);
    return next;
  }

  private begin(
    name: string,
    text: string,
    now: number,
    service: string | undefined,
  ): Kind | undefined {
    if (this.kinds.size >= this.kindsMax) return undefined;
    const kind = { text, service, logged: 0, counted: 0, due: now + this.intervalMs };
    this.kinds.set(name, kind);
    return kind;
  }

  private countOther(amount: number, now: number): false {
    const others = this.kinds.get(OTHERS);
    if (others !== undefined) others.counted += amount;
    else {
      const due = now + this.intervalMs;
      this.kinds.set(OTHERS, { text: OTHERS, service: undefined, logged: 0, counted: amount, due });
    }
    return false;
  }
}

function summary({ text, service, counted }: Kind): RateLimitedLine {
  const line = `${text} (${counted} more)`;
  return service === undefined ? { text: line } : { text: line, service };
}
