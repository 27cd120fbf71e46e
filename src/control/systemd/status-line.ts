/** The line of `systemctl status`: what runs, how much is open, what is down. Pure. */

import type { ServerStatus } from "../server/status.ts";

/** So many upstreams are named. */
const namedMax = 3;

/** The line for a status. */
export function statusLine({ generation, services, pools, counters }: ServerStatus): string {
  const serving = services.filter(({ state }) => state === "up").length;
  const down = pools.flatMap(({ name, upstreams }) =>
    upstreams.filter(({ state }) => state === "down").map((each) => `${name}/${each.name}`),
  );
  const named = down.slice(0, namedMax).join(", ");
  const others = down.length > namedMax ? ` and ${down.length - namedMax} more` : "";
  return [
    `configuration ${generation}`,
    many(serving, "service"),
    `${many(counters.active, "connection")} and ${many(counters.activeSessions, "session")} open`,
    ...(down.length === 0 ? [] : [`down: ${named}${others}`]),
  ].join("; ");
}

function many(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
