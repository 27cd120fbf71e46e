/** What the settings of a pool must not say at once. Pure. */

import type { IssueOf, Path } from "../net/issue.ts";
import { builtInPool, upstreamName } from "./pool.ts";
import type { DefaultSettings, PoolSettings } from "./settings.ts";
import type { CheckSettings, PooledSettings } from "./settings-pool.ts";
import type { UpstreamTarget } from "./syntax.ts";

/** What each kind of issue of a pool has besides its path. */
export interface PoolIssueArgs {
  /** A setting has to be there. */
  missing: { readonly setting: string };
  /** Two have one name. */
  "same-name": { readonly name: string };
  "original-alone": Record<never, never>;
  /** Both the short form of upstreams and the long one. */
  "to-and-upstream": Record<never, never>;
  /** The setting is of upstreams that are chosen among, or checked. */
  "needs-upstream": { readonly setting: string };
  /** The setting is of other types of checks. */
  "needs-check-type": { readonly setting: string; readonly types: readonly string[] };
  /** An upstream without a port of its own is checked. */
  "check-without-port": Record<never, never>;
  /** The first back-off is longer than the longest one. */
  "back-off-order": Record<never, never>;
}

export type PoolIssue = IssueOf<PoolIssueArgs>;

/** Every contradiction in the settings of one pool. */
export function checkPoolSettings(
  path: Path,
  pool: PoolSettings,
  defaults: DefaultSettings,
): PoolIssue[] {
  const { upstream = [], check } = pool;
  const issues: PoolIssue[] = [
    ...missing(path, { name: pool.name, to: pool.to ?? pool.upstream }),
    ...originalAlone([...path, "to"], pool.to),
    ...upstream.flatMap((each, i) => checkUpstream([...path, "upstream", i], each, upstream)),
    ...sameUpstreams([...path, "upstream"], upstream),
    ...checkBackOff(path, pool, defaults),
  ];
  if (pool.to !== undefined && pool.upstream !== undefined) {
    issues.push({ path: [...path, "to"], code: "to-and-upstream", args: {} });
  }
  if (targetsOf(pool).includes("original")) {
    for (const setting of ["on-down", "when-all-down", "passive", "check"] as const) {
      if (pool[setting] === undefined) continue;
      issues.push({ path: [...path, setting], code: "needs-upstream", args: { setting } });
    }
  }
  if (check === undefined) return issues;
  issues.push(...checkCheck([...path, "check"], check));
  if (check.type !== "none" && check.port === undefined && targetsOf(pool).some(isPortless)) {
    issues.push({ path: [...path, "check"], code: "check-without-port", args: {} });
  }
  return issues;
}

/** Where the connections of a pool go. */
export function targetsOf({ to, upstream }: PoolSettings): readonly UpstreamTarget[] {
  return to ?? upstream?.flatMap((each) => each.to ?? []) ?? [];
}

/** Whether connections go on to the port that their client has asked for. */
export function isPortless(to: UpstreamTarget): boolean {
  return to !== "original" && to.port === 0;
}

/** Issues for the settings that are not there. */
export function missing(path: Path, settings: Readonly<Record<string, unknown>>): PoolIssue[] {
  return Object.entries(settings)
    .filter(([, value]) => value === undefined)
    .map(([setting]) => ({ path, code: "missing", args: { setting } }));
}

/** An issue where `original` is one of several upstreams. */
export function originalAlone(path: Path, to: readonly UpstreamTarget[] = []): PoolIssue[] {
  if (to.length < 2 || !to.includes("original")) return [];
  return [{ path: [...path, to.indexOf("original")], code: "original-alone", args: {} }];
}

function checkUpstream(
  path: Path,
  upstream: PooledSettings,
  all: readonly PooledSettings[],
): PoolIssue[] {
  const issues = missing(path, { to: upstream.to });
  if (upstream.to !== "original") return issues;
  if (all.length > 1) issues.push({ path: [...path, "to"], code: "original-alone", args: {} });
  for (const setting of ["weight", "backup", "slow-start"] as const) {
    if (upstream[setting] === undefined) continue;
    issues.push({ path: [...path, setting], code: "needs-upstream", args: { setting } });
  }
  return issues;
}

function sameUpstreams(path: Path, upstreams: readonly PooledSettings[]): PoolIssue[] {
  const names = new Set<string>();
  return upstreams.flatMap((each, i): PoolIssue[] => {
    if (each.to === undefined) return [];
    const name = upstreamName(each);
    const at = [...path, i, each.name === undefined ? "to" : "name"];
    if (names.has(name)) return [{ path: at, code: "same-name", args: { name } }];
    names.add(name);
    return [];
  });
}

function checkBackOff(path: Path, pool: PoolSettings, defaults: DefaultSettings): PoolIssue[] {
  if (pool.passive === undefined) return [];
  const passive = { ...builtInPool.passive, ...defaults.passive, ...pool.passive };
  if (passive.rest <= passive["rest-max"]) return [];
  return [{ path: [...path, "passive"], code: "back-off-order", args: {} }];
}

/** The types of checks that have a setting. */
const typesOf = {
  path: ["http"],
  host: ["http", "tls"],
  status: ["http"],
  send: ["udp"],
  expect: ["udp"],
} as const;

/** Every contradiction in the settings of one check. */
export function checkCheck(path: Path, check: CheckSettings): PoolIssue[] {
  const { type } = check;
  if (type === undefined) return missing(path, { type });
  const issues = type === "udp" ? missing(path, { send: check.send }) : [];
  for (const [setting, types] of Object.entries(typesOf)) {
    const isOther = !(types as readonly string[]).includes(type);
    if (!isOther || check[setting as keyof typeof typesOf] === undefined) continue;
    issues.push({ path: [...path, setting], code: "needs-check-type", args: { setting, types } });
  }
  return issues;
}
