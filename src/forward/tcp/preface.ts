/**
 * What a client sends before its stream: the PROXY header, which names the client. Anything else
 * that has to be read before an upstream is chosen belongs here.
 */

import { EPOLLRDHUP } from "../../../ffi/constants.ts";
import { cidrContains } from "../../net/cidr.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { TcpConnection } from "./connection.ts";
import type { PhaseHandler } from "./phase.ts";
import type { StreamHeaders } from "./stream-headers.ts";

export class Preface implements PhaseHandler<TcpConnection> {
  private readonly task: Pick<ForwardTask, "ingress" | "timeouts">;
  private readonly headers: StreamHeaders;
  private readonly isDialed: boolean;

  /** `isDialed`: connections go to the destination that the header names. */
  constructor(
    task: Pick<ForwardTask, "ingress" | "timeouts">,
    headers: StreamHeaders,
    isDialed: boolean,
  ) {
    this.task = task;
    this.headers = headers;
    this.isDialed = isDialed;
  }

  enter(connection: TcpConnection): void {
    const allowed = this.task.ingress.acceptProxy ?? [];
    const { address } = connection.client;
    const sender = { family: address.length === 4 ? 4 : 6, bytes: address } as const;
    if (allowed.length > 0 && !allowed.some((cidr) => cidrContains(cidr, sender))) {
      return connection.abort("proxy-sender");
    }
    connection.arm(this.task.timeouts.headerMs);
  }

  /** Waits until the header is complete. */
  onClient(connection: TcpConnection): void {
    const hasEnded = (connection.clientEdges & EPOLLRDHUP) !== 0;
    const header = this.headers.take(connection.clientFd, hasEnded, this.isDialed);
    if (header === undefined) return;
    if ("fault" in header) return connection.close(header.fault, true);
    const { source, destination } = header;
    connection.passed = header.passed;
    if (source !== undefined && destination !== undefined) {
      connection.client = source;
      connection.original = destination;
    }
    connection.setState("route");
  }

  onTimer(connection: TcpConnection): void {
    connection.abort("proxy-header-timeout");
  }
}
