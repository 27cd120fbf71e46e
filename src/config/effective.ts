/** Settings with all that applies filled in: pools, [defaults], and what is built in. Pure. */

import { settingsOfProtocol } from "./check.ts";
import { builtIn, builtInOfAll, withDefaults } from "./service.ts";
import type { DefaultSettings, PoolSettings, ServiceSettings, Settings } from "./settings.ts";

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
    ...(pool.length === 0 ? {} : { pool: pool.map((each) => effectivePool(each, defaults)) }),
    service: service.map((own) => effectiveService(own, defaults)),
  };
}

function effectivePool(own: PoolSettings, defaults: DefaultSettings): PoolSettings {
  return { ...own, balance: own.balance ?? defaults.balance ?? builtIn.balance };
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
