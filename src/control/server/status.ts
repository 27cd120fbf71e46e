/** The state of a server at one moment, as plain data: all its views show this. */

import type { ProbeSettings } from "../../config/pool.ts";
import type { Balance } from "../../config/syntax.ts";
import type { Counters } from "../../workers/counters.ts";
import type { CheckCounts, UpstreamCounters } from "../../workers/upstream-board.ts";

/** The state of a service. */
export type ServiceState = "up" | "draining" | "drained" | "disabled";

/** A service that is taken out by an administrator: `down` also resets what is open. */
export type HeldState = "drained" | "down";

export interface ServiceStatus {
  readonly name: string;
  readonly state: ServiceState;
  readonly listeners: readonly ListenerStatus[];
  /** The name of its pool. */
  readonly pool: string;
  /** Who carries it. Of `kernel` the bytes of TCP have the headers of the packets. */
  readonly path: "relay" | "kernel";
  readonly counters: Counters;
}

export interface ListenerStatus {
  readonly protocol: "tcp" | "udp";
  /** `192.0.2.1:80`, `[::]:53`. */
  readonly address: string;
}

export interface PoolStatus {
  readonly name: string;
  readonly balance: Balance;
  /** The type of its checks; undefined: nothing is checked. */
  readonly check: ProbeSettings["type"] | undefined;
  readonly upstreams: readonly UpstreamStatus[];
}

export interface UpstreamStatus {
  readonly name: string;
  /** `up` if one of its addresses is; `drained`: it gets no new connections. */
  readonly state: "up" | "drained" | "down";
  /** Why it is not up, or an address of it is not; empty if all is well. */
  readonly reason: string;
  /** Since when it is in this state, in ms since 1970. */
  readonly since: number;
  /** The state that an administrator has asked for. */
  readonly admin: "ready" | "drain" | "down";
  readonly weight: number;
  readonly isBackup: boolean;
  /** Empty: its name has not been found, or it is `original`. */
  readonly addresses: readonly AddressStatus[];
}

export interface AddressStatus {
  /** `192.0.2.1:80`. */
  readonly address: string;
  /** By its checks: it is up until one has found it down. */
  readonly isUp: boolean;
  readonly reason: string;
  readonly since: number;
  readonly counters: UpstreamCounters;
  /** Undefined: it is not checked. */
  readonly check: CheckCounts | undefined;
}

export interface RoutesStatus {
  /** Whether this process installs rules. */
  readonly installed: boolean;
  readonly table: string | undefined;
  /** How often rules that others had removed were restored. */
  readonly repaired: number;
}

/** The last reload. */
export interface ReloadStatus {
  /** In ms since 1970. */
  readonly time: number;
  readonly isSuccessful: boolean;
  /** When the last one was that succeeded; undefined: none has. */
  readonly successTime: number | undefined;
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
  /** In a few words each; none if all is well. */
  readonly problems: readonly string[];
}
