/**
 * What the proxy sends to an upstream before the client's stream: the PROXY header. A new socket
 * has room for all of it, so this phase never waits.
 */

import type { ForwardTask } from "../../workers/protocol.ts";
import type { TcpConnection } from "./connection.ts";
import type { PhaseHandler } from "./phase.ts";
import type { StreamHeaders } from "./stream-headers.ts";

export class Handshake implements PhaseHandler<TcpConnection> {
  private readonly task: Pick<ForwardTask, "dial">;
  private readonly headers: StreamHeaders;

  constructor(task: Pick<ForwardTask, "dial">, headers: StreamHeaders) {
    this.task = task;
    this.headers = headers;
  }

  enter(connection: TcpConnection): void {
    if (this.sendHeader(connection)) return connection.setState("relay");
    connection.abort("proxy-header-unsent");
  }

  private sendHeader({ upstreamFd, client, original, passed }: TcpConnection): boolean {
    const { sendProxy } = this.task.dial;
    if (sendProxy === undefined || upstreamFd === undefined) return true;
    return this.headers.send(upstreamFd, sendProxy, client, original, passed);
  }
}
