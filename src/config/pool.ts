/** A pool, complete: its upstreams, and when each of them gets connections. Pure. */

import * as limits from "../engine/limits.ts";
import type { DefaultSettings, PoolSettings, ServiceSettings } from "./settings.ts";
import {
  type CheckSettings,
  type PooledSettings,
  payloadBytes,
  poolDefaults,
  type StatusRange,
} from "./settings-pool.ts";
import { type Balance, type UpstreamTarget, upstreamSyntax } from "./syntax.ts";

/** Upstreams, and which of them a connection gets. */
export interface Pool {
  readonly name: string;
  readonly upstreams: readonly PoolUpstream[];
  readonly balance: Balance;
  /** Open connections of an upstream that is down. */
  readonly onDown: "keep" | "close";
  /** With no upstream left: try the one that has been down longest, or reject connections. */
  readonly whenAllDown: "try" | "refuse";
  readonly backOff: BackOff;
  /** Undefined: nothing is checked. */
  readonly check: HealthCheck | undefined;
}

/** An entry of a pool: a name for people, and the address or the name that it stands for. */
export interface PoolUpstream {
  readonly name: string;
  readonly to: UpstreamTarget;
  /** Its share among the others; 0: it gets none. */
  readonly weight: number;
  /** It gets connections while no other upstream can have them. */
  readonly isBackup: boolean;
  /** How long its share rises after it came up; 0: it has all of it at once. */
  readonly slowStartMs: number;
}

/** When an upstream to which connecting fails is left alone. */
export interface BackOff {
  /** Failures in a row. */
  readonly failures: number;
  /** The first time; each next time it doubles. */
  readonly ms: number;
  readonly msMax: number;
}

/** What an upstream is asked at intervals. */
export interface HealthCheck {
  readonly probe: ProbeSettings;
  /** Undefined: the port of the upstream. */
  readonly port: number | undefined;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** Successes, and failures, in a row that change the state. */
  readonly rise: number;
  readonly fall: number;
  /** By how many percent each interval varies. */
  readonly jitter: number;
}

export type ProbeSettings =
  | { readonly type: "tcp" }
  /** `host` is the name that is asked for; empty: none. */
  | { readonly type: "tls"; readonly host: string }
  | {
      readonly type: "http";
      readonly host: string;
      readonly path: string;
      readonly status: readonly StatusRange[];
    }
  /** Bytes that are sent, and that the reply contains; undefined: any reply counts. */
  | {
      readonly type: "udp";
      readonly send: Uint8Array;
      readonly expect: Uint8Array | undefined;
    };

/** The name of what is served by a command line. */
export const namelessService = "forward";

/** What applies to every pool where nothing else is set. */
export const builtInPool = {
  balance: "round-robin",
  "on-down": "keep",
  "when-all-down": "try",
  passive: {
    failures: limits.upstreamFailuresMax,
    rest: limits.upstreamBackOffMs,
    "rest-max": limits.upstreamBackOffMsMax,
  },
} as const satisfies DefaultSettings;

/** What applies to every upstream of a pool, and to every check. */
export const builtInUpstream = { weight: 100, backup: false } as const;
export const builtInCheck = {
  ...{ interval: 2_000, timeout: 1_000, rise: 2, fall: 3, jitter: 10 },
} as const;

/** The settings of a pool with those of [defaults] and what is built in. */
export function poolWithDefaults(own: PoolSettings | ServiceSettings, defaults: DefaultSettings) {
  // A service has none of them but the balance.
  const given = own as PoolSettings;
  const passive = { ...builtInPool.passive, ...defaults.passive, ...given.passive };
  return {
    balance: given.balance ?? defaults.balance ?? builtInPool.balance,
    "on-down": given["on-down"] ?? defaults["on-down"] ?? builtInPool["on-down"],
    "when-all-down":
      given["when-all-down"] ?? defaults["when-all-down"] ?? builtInPool["when-all-down"],
    passive,
    check: checkOf(own, defaults),
  };
}

/** A check of [defaults] is of the upstreams that it fits: the others stay unchecked. */
function checkOf(
  own: PoolSettings | ServiceSettings,
  { check }: DefaultSettings,
): CheckSettings | undefined {
  if ("check" in own && own.check !== undefined) return own.check;
  if (check === undefined) return undefined;
  const isUdp = check.type === "udp";
  const protocols = "listen" in own ? own.listen?.map(({ protocol }) => protocol === "udp") : [];
  const isOther = protocols?.length && !protocols.includes(isUdp);
  const hasPorts = upstreamsOf(own).every(
    ({ to }) => to !== undefined && to !== "original" && (check.port ?? to.port) !== 0,
  );
  return !isOther && hasPorts ? check : undefined;
}

/** The settings of [defaults] that are those of services. */
export function withoutPoolDefaults(defaults: DefaultSettings): DefaultSettings {
  const entries = Object.entries(defaults).filter(
    ([name]) => name === "balance" || !Object.hasOwn(poolDefaults, name),
  );
  return Object.fromEntries(entries);
}

/** Fills in the defaults of a pool, or of a service that has upstreams of its own. */
export function completePool(own: PoolSettings | ServiceSettings, defaults: DefaultSettings): Pool {
  const all = poolWithDefaults(own, defaults);
  const { failures, rest, "rest-max": msMax } = all.passive;
  const { check } = all;
  const { name = namelessService } = own;
  return {
    name,
    upstreams: upstreamsOf(own).map((each) => completeUpstream(each)),
    balance: all.balance,
    onDown: all["on-down"],
    whenAllDown: all["when-all-down"],
    backOff: { failures, ms: rest, msMax },
    check: check && completeCheck(check),
  };
}

/** The upstreams of a pool in their long form. */
function upstreamsOf(own: PoolSettings | ServiceSettings): readonly PooledSettings[] {
  if ("upstream" in own && own.upstream !== undefined) return own.upstream;
  const unique = new Map((own.to ?? []).map((to) => [upstreamSyntax.format(to), { to }]));
  return [...unique.values()];
}

function completeUpstream(own: PooledSettings): PoolUpstream {
  const { to = "original" } = own;
  const { weight, backup } = { ...builtInUpstream, ...own };
  return {
    name: upstreamName(own),
    to,
    weight,
    isBackup: backup,
    slowStartMs: own["slow-start"] ?? 0,
  };
}

/** What people call an upstream: its name, or what `to` says. */
export function upstreamName({ name, to = "original" }: PooledSettings): string {
  return name ?? upstreamSyntax.format(to);
}

function completeCheck(own: CheckSettings): HealthCheck | undefined {
  const { interval, timeout, rise, fall, jitter } = { ...builtInCheck, ...own };
  const probe = probeOf(own);
  if (probe === undefined) return undefined;
  return {
    probe,
    port: own.port,
    intervalMs: interval,
    timeoutMs: timeout,
    rise,
    fall,
    jitter,
  };
}

function probeOf(own: CheckSettings): ProbeSettings | undefined {
  const { type = "tcp", host = "", path = "/", send = "", expect } = own;
  switch (type) {
    case "none":
      return undefined;
    case "tcp":
      return { type };
    case "tls":
      return { type, host };
    case "http":
      return { type, host, path, status: own.status ?? [{ from: 200, to: 399 }] };
    case "udp":
      return {
        type,
        send: payloadBytes(send),
        expect: expect === undefined ? expect : payloadBytes(expect),
      };
  }
}
