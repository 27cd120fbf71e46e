/** The addresses at which a server is looked at and controlled: only one process can have them. */

import type { Configuration } from "../../config/service.ts";
import type { AdminServer } from "../admin/admin-server.ts";
import { openAdmin } from "../admin/open-admin.ts";
import type { MetricsListener } from "../metrics/listener.ts";
import { type MeasuredServer, openMetrics } from "../metrics/metrics.ts";
import type { ServerSettings } from "./settings.ts";

/** The server behind the addresses. */
type ViewedServer = MeasuredServer & { readonly configuration: Configuration };

export class Views {
  private readonly server: ViewedServer;
  private readonly settings: ServerSettings;
  private metrics: MetricsListener | undefined;
  private admin: AdminServer | undefined;

  constructor(server: ViewedServer, settings: ServerSettings) {
    this.server = server;
    this.settings = settings;
  }

  /** Opens them. A second time it does nothing. @throws CommandError */
  async open(): Promise<void> {
    const { server, settings } = this;
    const { metrics, admin } = server.configuration;
    this.metrics ??= openMetrics(metrics, server, settings);
    this.admin ??= await openAdmin(admin, server, settings);
  }

  /** Gives them up. Settles once another process can have them. */
  async close(): Promise<void> {
    const { metrics, admin } = this;
    this.metrics = undefined;
    metrics?.close();
    await admin?.stop();
    this.admin = undefined;
  }
}
