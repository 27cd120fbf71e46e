/** Settings with all that applies filled in: pools, [defaults], and what is built in. Pure. */

import { settingsOfProtocol } from "./check.ts";
import { targetsOf } from "./check-pool.ts";
import { builtInCheck, builtInUpstream, poolWithDefaults } from "./pool.ts";
import { builtInOfAll, withDefaults } from "./service.ts";
import type { DefaultSettings, PoolSettings, ServiceSettings, Settings } from "./settings.ts";
import { poolDefaults } from "./settings-pool.ts";

/**
 * The equivalent settings without [defaults], included files and built-in values. Of each
 * service it has what applies to it: nothing of a protocol that it does not carry.
 */
export function effectiveSettings(settings: Settings): Settings {
  const { defaults = {}, include: _, pool = [], service = [], ...rest } = settings;
  return {
    ...builtInOfAll,
    ...rest,
    log: { ...builtInOfAll.log, ...settings.log },
    routes: { ...builtInOfAll.routes, ...settings.routes },
    ...ofOwnPools(defaults),
    ...(pool.length === 0 ? {} : { pool: pool.map((each) => effectivePool(each, defaults)) }),
    service: service.map((own) => effectiveService(own, defaults)),
  };
}

/** The defaults of pools that a service with upstreams of its own cannot have itself. */
function ofOwnPools(defaults: DefaultSettings): Pick<Settings, "defaults"> {
  const { balance: _, ...names } = poolDefaults;
  const kept = Object.entries(defaults).filter(([name]) => Object.hasOwn(names, name));
  return kept.length === 0 ? {} : { defaults: Object.fromEntries(kept) };
}

function effectivePool(own: PoolSettings, defaults: DefaultSettings): PoolSettings {
  const { check, ...all } = poolWithDefaults(own, defaults);
  if (targetsOf(own).includes("original")) return { ...own, balance: all.balance };
  const { upstream } = own;
  return {
    ...own,
    ...all,
    ...(upstream && { upstream: upstream.map((each) => ({ ...builtInUpstream, ...each })) }),
    ...(check && { check: { ...builtInCheck, ...check } }),
  };
}

function effectiveService(own: ServiceSettings, defaults: DefaultSettings): ServiceSettings {
  const { name, listen = [], pool, to, ...all } = { ...own, ...withDefaults(own, defaults) };
  const protocols = new Set(listen.map(({ protocol }) => protocol));
  const needless = new Set<string>(pool === undefined ? [] : ["balance"]);
  for (const protocol of ["tcp", "udp"] as const) {
    if (protocols.has(protocol)) continue;
    for (const setting of settingsOfProtocol[protocol]) needless.add(setting);
  }
  if (all["accept-proxy"] === false) needless.add("header-timeout");
  const kept = Object.entries(all).filter(([setting]) => !needless.has(setting));
  const isEvery = all["send-proxy"] === "v2:every" && !protocols.has("udp");
  return {
    ...(name === undefined ? {} : { name }),
    listen,
    ...(pool === undefined ? {} : { pool }),
    ...(to === undefined ? {} : { to }),
    ...(Object.fromEntries(kept) as ServiceSettings),
    ...(isEvery ? { "send-proxy": "v2" as const } : {}),
  };
}
