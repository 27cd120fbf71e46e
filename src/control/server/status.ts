/** What a server does at the moment, as plain data: what every view of it shows. */

import type { Counters } from "../../workers/counters.ts";

/** The state of a service. */
export type ServiceState = "up" | "draining" | "drained" | "disabled";

export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly listeners: readonly ListenerStatus[];
  /** The name of its pool. */
  readonly pool: string;
  readonly counters: Counters;
}

export interface ListenerStatus {
  readonly protocol: "tcp" | "udp";
  /** `192.0.2.1:80`, `[::]:53`. */
  readonly address: string;
}

export interface PoolStatus {
  readonly name: string;
  readonly upstreams: readonly UpstreamStatus[];
}

export interface UpstreamStatus {
  readonly name: string;
  /** Empty: its name has not been found. */
  readonly addresses: readonly string[];
  readonly state: "up" | "down";
  /** Why it is down; empty if it is not. */
  readonly reason: string;
}

export interface RoutesStatus {
  /** Whether this process installs rules. */
  readonly installed: boolean;
  readonly table: string | undefined;
}

/** The last reload. */
export interface ReloadStatus {
  /** In ms since 1970. */
  readonly time: number;
  readonly isSuccessful: boolean;
  /** The problems; empty if it was successful. */
  readonly problems: readonly string[];
}

export interface ServerStatus {
  readonly version: string;
  readonly pid: number;
  /** In ms since 1970. */
  readonly startTime: number;
  /** Counts the configurations that were applied, from 1. */
  readonly generation: number;
  /** Undefined: there was none. */
  readonly lastReload: ReloadStatus | undefined;
  readonly workers: number;
  readonly isStopping: boolean;
  readonly routes: RoutesStatus;
  readonly services: readonly ServiceStatus[];
  readonly pools: readonly PoolStatus[];
  /** Of all services, and of those that are gone. */
  readonly counters: Counters;
}
