/** Looks up the upstreams of a configuration. */

import type { Pool } from "../../config/pool.ts";
import type { Service } from "../../config/service.ts";
import { nameStartMs } from "../../engine/limits.ts";
import { UpstreamList } from "../upstreams.ts";
import { ServiceProblem } from "./issues.ts";

/**
 * Looks up the upstreams of all pools that the services use. Those of a service without a name have
 * to have an address; others may be looked up for longer than this waits.
 * @throws ServiceProblem
 */
export async function resolveAll(
  services: readonly Service[],
  isNameless: boolean,
): Promise<Map<Pool, UpstreamList>> {
  const users = new Map(services.map((service) => [service.route.pool, service]));
  const lists = await Promise.all(
    [...users].map(async ([pool, { name, dial }]) => {
      const waitMs = isNameless ? Number.POSITIVE_INFINITY : nameStartMs;
      const list = await UpstreamList.resolve(
        pool.upstreams.map(({ to }) => to),
        dial.mark,
        waitMs,
      );
      if (!isNameless || !list.isUnknown) return [pool, list] as const;
      const { problems } = list;
      list.close();
      throw new ServiceProblem(name, { path: ["to"], code: "no-upstream", args: { problems } });
    }),
  );
  return new Map(lists);
}
