/**
 * The listener of TCP for reading: metrics, health, and the page. It changes nothing, whatever it
 * is asked, and so it needs no secret.
 */

import type { Server } from "bun";
import type { MetricsConfiguration } from "../../config/settings-metrics.ts";
import { CommandError } from "../../errors.ts";
import { formatBytes, isLoopback } from "../../net/address.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { bindAddress } from "../endpoints.ts";
import { requestFault } from "./host-check.ts";
import { metricsContentType } from "./text.ts";

/** The documents that it serves. */
export interface Readable {
  /** The metrics as text. */
  metrics(): Uint8Array<ArrayBuffer>;
  /** Why no traffic should be sent here; empty: it may be. */
  unready(): string;
  /** Answers a request for any other path; undefined: there is nothing there. */
  page?(request: Request, path: string): Response | Promise<Response> | undefined;
  /** Called when the listener is closed. */
  closed?(): void;
}

const security: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "cross-origin-resource-policy": "same-origin",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
};

/** A client has so long between two bytes of its request, and to read the answer. */
const idleSeconds = 10;

export class MetricsListener {
  private readonly server: Server<undefined>;
  private readonly readable: Readable;
  private readonly hosts: readonly string[];
  /** Where it is bound, with its port. */
  readonly address: string;
  /** Whether only this host can connect. */
  readonly isLoopback: boolean;

  /** @throws CommandError where it cannot be bound */
  constructor({ listen, hosts }: MetricsConfiguration, readable: Readable) {
    const { address, port, scopeId } = bindAddress(listen);
    this.readable = readable;
    this.hosts = hosts;
    const textOf = (bound: number) => formatSocketAddress({ address, port: bound, scopeId });
    try {
      this.server = Bun.serve({
        ...{ hostname: formatBytes(address), port, idleTimeout: idleSeconds },
        // Without development, Bun lets another program share the port by default.
        ...{ maxRequestBodySize: 1024, development: false, reusePort: false },
        fetch: (request) => this.answer(request),
        error: () => answer(500, "an error: see the log"),
      });
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      throw new CommandError(`Cannot bind tcp://${textOf(port)} for [metrics]: ${code ?? message}`);
    }
    this.isLoopback = isLoopback({ family: address.length === 4 ? 4 : 6, bytes: address });
    this.address = textOf(this.server.port ?? port);
  }

  close(): void {
    void this.server.stop(true);
    this.readable.closed?.();
  }

  private async answer(request: Request): Promise<Response> {
    const { method, headers, url } = request;
    const asked = { method, host: headers.get("host"), origin: headers.get("origin") };
    const fault = requestFault(asked, this.hosts, this.server.port ?? 0);
    if (fault !== undefined) return answer(fault.status, fault.text);
    const response = await this.read(request, new URL(url).pathname);
    for (const [name, value] of Object.entries(security)) response.headers.set(name, value);
    return response;
  }

  private read(request: Request, path: string): Response | Promise<Response> {
    switch (path) {
      case "/metrics":
        return new Response(this.readable.metrics(), {
          headers: { "content-type": metricsContentType },
        });
      case "/healthz":
        return answer(200, "ok");
      case "/readyz": {
        const reason = this.readable.unready();
        return reason === "" ? answer(200, "ready") : answer(503, reason);
      }
      default:
        return this.readable.page?.(request, path) ?? answer(404, "there is nothing here");
    }
  }
}

function answer(status: number, text: string): Response {
  const headers = { ...security, "content-type": "text/plain; charset=utf-8" };
  return new Response(`${text}\n`, { status, headers });
}
