/** The admin API on its sockets. */

import type { Controlled } from "./controlled.ts";
import type { HttpServer } from "./http-server.ts";
import { routesOf } from "./routes.ts";
import { type SocketFile, serveAt } from "./socket-file.ts";

/** Where the API is served. */
export interface AdminSockets {
  readonly admin: SocketFile;
  /** For reading only; undefined: there is none. */
  readonly readOnly: SocketFile | undefined;
}

export class AdminServer {
  private readonly servers: readonly HttpServer[];

  private constructor(servers: readonly HttpServer[]) {
    this.servers = servers;
  }

  /** Serves the API. @throws CommandError; then no socket is left */
  static async open({ admin, readOnly }: AdminSockets, server: Controlled): Promise<AdminServer> {
    const first = await serveAt(admin, routesOf(server, "admin"));
    if (readOnly === undefined) return new AdminServer([first]);
    try {
      return new AdminServer([first, await serveAt(readOnly, routesOf(server, "read-only"))]);
    } catch (error) {
      first.stop();
      throw error;
    }
  }

  /** Ends all connections and removes the sockets' files. */
  stop(): void {
    for (const server of this.servers) server.stop();
  }
}
