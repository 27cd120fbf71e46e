/**
 * Which upstreams of the kernel path seem to be dead, from what connection tracking shows: TCP
 * connections that were refused, and SYNs that nobody answers. Pure: time is handed in.
 *
 * The rules are those of the relay's `UpstreamPool`, as far as they can be followed here. A failure
 * bears witness of its client, since an upstream may refuse one alone. When several clients bear
 * witness, and for a whole interval no connection to the upstream is answered, it backs off: first
 * for `backOffMs`, twice as long each time. After that it is on trial, with a single slot: an
 * answer gives it its share again, a failure of any client makes it back off again.
 */

import { type ClientKey, clientKey } from "../../forward/client-back-offs.ts";

export interface HealthSettings {
  /** Clients in a row. */
  readonly failures: number;
  readonly backOffMs: number;
  readonly backOffMsMax: number;
}

export type HealthState = "up" | "backing-off" | "trial";

/** What has become of an upstream. */
export type HealthChange =
  | { readonly kind: "backs-off"; readonly key: string; readonly ms: number; readonly why: string }
  | { readonly kind: "trial"; readonly key: string }
  | { readonly kind: "recovered"; readonly key: string };

/** The ids of an upstream's connections that it has answered. */
type Answered = (key: string) => ReadonlySet<number>;

interface Watched {
  state: HealthState;
  until: number;
  backOffMs: number;
  failedAt: number;
  why: string;
  readonly witnesses: Set<ClientKey>;
  /** Connections that had been answered when it became suspect; undefined: it is not. */
  before: ReadonlySet<number> | undefined;
}

export class PathHealth {
  private readonly settings: HealthSettings;
  private readonly answered: Answered;
  private readonly watched = new Map<string, Watched>();

  /** `answered` is asked of few upstreams, and at most once an interval of each. */
  constructor(settings: HealthSettings, answered: Answered) {
    this.settings = settings;
    this.answered = answered;
  }

  /** From now on these are the upstreams. What is known of those that stay is kept. */
  replace(keys: readonly string[]): void {
    for (const key of this.watched.keys()) if (!keys.includes(key)) this.watched.delete(key);
    for (const key of keys) if (!this.watched.has(key)) this.watched.set(key, fresh());
  }

  state(key: string): HealthState {
    return this.watched.get(key)?.state ?? "up";
  }

  /** When an upstream last failed; -Infinity: never. */
  failedAt(key: string): number {
    return this.watched.get(key)?.failedAt ?? Number.NEGATIVE_INFINITY;
  }

  /** A connection of `client` was refused, or is not answered. */
  failed(key: string, client: Uint8Array, why: string): void {
    const watched = this.watched.get(key);
    if (watched === undefined || watched.state === "backing-off") return;
    if (watched.witnesses.size < this.settings.failures) watched.witnesses.add(clientKey(client));
    watched.why = why;
  }

  /** An interval is over: what has changed. `now` is of a clock that only goes on. */
  tick(now: number): HealthChange[] {
    return [...this.watched].flatMap(([key, watched]) => this.look(key, watched, now) ?? []);
  }

  private look(key: string, watched: Watched, now: number): HealthChange | undefined {
    const { state, witnesses } = watched;
    if (state === "backing-off") {
      if (now < watched.until) return undefined;
      this.begin(watched, "trial");
      watched.before = this.answered(key);
      return { kind: "trial", key };
    }
    if (state === "up" && witnesses.size === 0) return undefined;
    const answered = this.answered(key);
    const { before } = watched;
    watched.before ??= answered;
    // Connections that failed since the last look are not yet older than what it has seen.
    if (before === undefined) return undefined;
    if (hasMore(answered, before)) {
      this.begin(watched, "up");
      if (state === "up") return undefined;
      watched.backOffMs = 0;
      return { kind: "recovered", key };
    }
    if (witnesses.size < (state === "trial" ? 1 : this.settings.failures)) return undefined;
    const { backOffMs, backOffMsMax } = this.settings;
    this.begin(watched, "backing-off");
    watched.failedAt = now;
    watched.backOffMs = Math.min(Math.max(2 * watched.backOffMs, backOffMs), backOffMsMax);
    watched.until = now + watched.backOffMs;
    return { kind: "backs-off", key, ms: watched.backOffMs, why: watched.why };
  }

  private begin(watched: Watched, state: HealthState): void {
    watched.state = state;
    watched.witnesses.clear();
    watched.before = undefined;
  }
}

function hasMore(now: ReadonlySet<number>, before: ReadonlySet<number>): boolean {
  for (const id of now) if (!before.has(id)) return true;
  return false;
}

function fresh(): Watched {
  return {
    state: "up",
    until: 0,
    backOffMs: 0,
    failedAt: Number.NEGATIVE_INFINITY,
    why: "",
    witnesses: new Set(),
    before: undefined,
  };
}
