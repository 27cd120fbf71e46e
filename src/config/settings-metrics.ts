/** The settings of the listener for metrics, complete and as somebody has set them. Pure. */

import { type Endpoint, formatEndpoint, parseEndpoint } from "../net/endpoint.ts";
import { ok, quote, refuse } from "../net/result.ts";
import { type Given, list, required, setting, table, text } from "./kinds.ts";
import { listMax } from "./settings-values.ts";
import type { Syntax } from "./syntax.ts";

/** Where metrics are read over TCP. */
export interface MetricsConfiguration {
  readonly listen: Endpoint;
  /** Host headers that are accepted besides the literal address. */
  readonly hosts: readonly string[];
}

const endpoint: Syntax<Endpoint> = {
  parse: (given) => parseEndpoint(given, { portZero: true }),
  format: formatEndpoint,
};

const host: Syntax<string> = {
  parse: (given) =>
    /^[A-Za-z0-9_.-]{1,253}(:[0-9]{1,5})?$/.test(given)
      ? ok(given)
      : refuse(`${quote(given)} is not accepted: give a name and its port, "localhost:9117"`),
  format: (given) => given,
};

const settings = {
  listen: required(
    text(endpoint, { examples: ["127.0.0.1:9117", "[::1]:9117"] }),
    "Where GET /metrics, /healthz and /readyz are answered over TCP; it changes nothing.",
  ),
  hosts: setting(
    list(text(host, { examples: ["localhost:9117"] }), listMax),
    "Host headers that are accepted besides the literal address.",
  ),
};

/** The table [metrics]. */
export const metrics = table(settings);

/** Fills in the defaults; undefined: there is no listener. */
export function completeMetrics(
  given: Given<typeof settings> | undefined,
): MetricsConfiguration | undefined {
  if (given?.listen === undefined) return undefined;
  return { listen: given.listen, hosts: given.hosts ?? [] };
}
