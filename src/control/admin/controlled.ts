/** A server, as far as the admin API knows it. */

import type { LevelName } from "../../log/level.ts";
import type { LogEntry } from "../../log/recent.ts";
import type { RowQuery } from "../../workers/query.ts";
import type { Rows, Selection } from "../../workers/scan-requests.ts";
import type { ProblemPlace } from "./problem.ts";

/** The change of an upstream that an administrator asks for; absent fields stay as they are. */
export interface UpstreamChange {
  /** `drain`: nothing new; `down`: also as if it had failed; `ready` undoes both. */
  readonly state?: "ready" | "drain" | "down" | undefined;
  /** 0 to 256. */
  readonly weight?: number | undefined;
  /** Even if no other upstream of its pool takes connections. */
  readonly force: boolean;
}

/** The log of a server (`Log`). */
export interface ControlledLog {
  /** The last lines, the oldest first. */
  recent(): readonly LogEntry[];
  /** Calls `follower` for each line from now on, until the returned function is called. */
  follow(follower: (entry: LogEntry) => void): () => void;
  /** Logs at another level, for `forMs`, or until it is changed if that is 0. */
  setLevel(level: LevelName, forMs: number): void;
}

/** The result of a reload, or of a check, which changes nothing. */
export interface Applied {
  /** One line each, `~ pool web: upstream web1 weight 100 -> 50`. */
  readonly changes: readonly string[];
  /** Of the configuration that is in force. */
  readonly generation: number;
}

export interface ReloadRequest {
  /** Only returns the changes, and makes none. */
  readonly isDry: boolean;
  /** Ends connections of services and upstreams that are gone. */
  readonly closesRemoved: boolean;
}

/**
 * A server. What is absent it cannot do, such as reload without a configuration file. Methods
 * throw ApiError for what a client has asked wrongly.
 */
export interface Controlled {
  /** Plain data. Times are in ms since 1970, in fields that are called `time` or end in `Time`. */
  status(): object;
  /** Undefined while it is ready; otherwise why it is not. */
  notReady(): string | undefined;
  /** Why nothing may be changed now, as during an upgrade; undefined: it may. */
  readonly obstacle?: string | undefined;
  readonly log: ControlledLog;
  /** Logs what an administrator has changed. */
  changed(text: string): void;
  query(query: RowQuery): Promise<Rows>;
  kill(selection: Selection): Promise<number>;
  setService?(name: string, state: "ready" | "drained" | "down"): Promise<void>;
  setUpstream?(pool: string, upstream: string, change: UpstreamChange): void;
  /** The problems of a configuration, TOML or JSON. */
  check?(text: string): Promise<readonly ProblemPlace[]>;
  reload?(request: ReloadRequest): Promise<Applied>;
  upgrade?(executable: string | undefined): Promise<object>;
  /** Ends the process after the drain time-out, or at once. */
  stop(isAtOnce: boolean): void;
  /** The configuration in force, without secrets. */
  configuration?(type: "toml" | "json"): Promise<string>;
  /** The text of the metrics, and its type. */
  metrics?(): { readonly text: string | Uint8Array<ArrayBuffer>; readonly type: string };
}
