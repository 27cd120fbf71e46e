/** The problems that a status shows, in a few words each, for all that show it. Pure. */

import type { ServerStatus } from "./status.ts";

/** One text a problem; none if all is well. */
export function problemsOf({
  isStopping,
  lastReload,
  services,
  pools,
}: Omit<ServerStatus, "problems">): readonly string[] {
  const down = pools.flatMap((pool) =>
    pool.upstreams
      .filter(({ state }) => state !== "up")
      .map(({ name, state }) => `upstream ${pool.name}/${name} ${state}`),
  );
  return [
    ...(isStopping ? ["stopping"] : []),
    ...(lastReload?.isSuccessful === false ? ["the last reload failed"] : []),
    ...services
      .filter(({ state }) => state !== "up")
      .map(({ name, state }) => `service ${name} ${state}`),
    ...down,
  ];
}
