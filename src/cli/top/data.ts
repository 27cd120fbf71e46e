/** The parts of `/v1/events` and `/v1/log` that `top` shows (docs/operations.md). */

/** Of a service, or of all together. What is absent is 0. */
export interface Counters {
  readonly accepted?: number;
  readonly active?: number;
  readonly sessions?: number;
  readonly active_sessions?: number;
  readonly client_bytes?: number;
  readonly upstream_bytes?: number;
  readonly failed?: number;
}

export interface Service {
  readonly name: string;
  readonly state: string;
  readonly pool: string;
  readonly listeners: readonly { readonly protocol: string; readonly address: string }[];
  readonly counters: Counters;
}

/** The counters of an address of an upstream. */
export interface AddressCounters {
  readonly connects?: number;
  readonly open?: number;
  readonly sessions?: number;
  readonly open_sessions?: number;
  readonly client_bytes?: number;
  readonly upstream_bytes?: number;
}

export interface Address {
  readonly address: string;
  readonly reason?: string;
  readonly counters?: AddressCounters;
}

export interface Upstream {
  readonly name: string;
  readonly state: string;
  /** Why it is not up. */
  readonly reason: string;
  readonly since?: string;
  /** The state that an administrator has asked for: `ready`, `drain`, `down`. */
  readonly admin?: string;
  readonly weight?: number;
  readonly is_backup?: boolean;
  readonly addresses: readonly (string | Address)[];
}

export interface Pool {
  readonly name: string;
  readonly upstreams: readonly Upstream[];
}

export interface Connection {
  readonly id: string;
  readonly service?: string;
  readonly protocol: string;
  readonly client: string;
  readonly original_destination: string;
  readonly upstream?: string;
  readonly upstream_name?: string;
  readonly state: string;
  readonly client_bytes: number;
  readonly upstream_bytes: number;
  readonly client_rate?: number;
  readonly upstream_rate?: number;
  readonly ms: number;
  readonly idle_ms: number;
}

export interface Status {
  readonly time: string;
  readonly version: string;
  readonly pid: number;
  readonly start_time: string;
  readonly generation: number;
  readonly workers: number;
  /** In a few words each; none if all is well. */
  readonly problems: readonly string[];
  readonly services: readonly Service[];
  readonly pools: readonly Pool[];
  readonly counters: Counters;
  /** Open connections and sessions, and those that match the filter. */
  readonly total: number;
  readonly matched: number;
  readonly connections: readonly Connection[];
}

/** A line of the log. */
export interface LogLine {
  readonly time: string;
  readonly level: string;
  readonly text: string;
}
