/** The metrics of a server: as text, and over TCP. */

import type { MetricsConfiguration } from "../../config/settings-metrics.ts";
import { routesOf } from "../admin/routes.ts";
import { type ControlSettings, type Server, ServerControl } from "../admin/server-control.ts";
import { Page, type PageServer } from "../page/page.ts";
import type { ServerStatus } from "../server/status.ts";
import type { ServerParts } from "../server/status-of.ts";
import { metricsOf } from "./collect.ts";
import { renderMetrics } from "./families.ts";
import { MetricsListener } from "./listener.ts";

/** A server whose metrics are read. */
export type MeasuredServer = Server & PageServer;

/** The metrics of now, as text of `metricsContentType`. */
export function metricsText(parts: ServerParts): Uint8Array<ArrayBuffer> {
  return renderMetrics(metricsOf(parts));
}

/** Opens the listener, if there is to be one, and logs its address. @throws CommandError */
export function openMetrics(
  settings: MetricsConfiguration | undefined,
  server: MeasuredServer,
  control: ControlSettings,
): MetricsListener | undefined {
  if (settings === undefined) return undefined;
  const page = new Page(server, routesOf(new ServerControl(server, control), "read-only"));
  const listener = new MetricsListener(settings, {
    metrics: () => server.metricsText(),
    unready: () => unreadiness(server.status()),
    page: (request, path) => page.answer(request, path),
    closed: () => page.close(),
  });
  const { address } = listener;
  server.log.note(`[+] Metrics at http://${address}/metrics`, { event: "metrics", address });
  if (!listener.isLoopback) {
    server.log.warn(`the metrics at ${address} can be read by all hosts that can connect to it`);
  }
  return listener;
}

/** Why no traffic should be sent to a server; empty: it may be. */
function unreadiness({ isStopping, services, pools }: ServerStatus): string {
  if (isStopping) return "stopping";
  if (services.every(({ state }) => state === "disabled")) return "starting";
  const up = new Set(
    pools
      .filter(({ upstreams }) => upstreams.some(({ state }) => state === "up"))
      .map(({ name }) => name),
  );
  const without = services.find(({ state, pool }) => state === "up" && !up.has(pool));
  return without === undefined ? "" : `service ${without.name} has no upstream that is up`;
}
