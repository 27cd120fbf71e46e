/**
 * Routes a connection: waits for its place (`Admission`), then picks an upstream, at first and
 * after each one that failed.
 */

import { connectAttemptsMax } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import type { Admitted } from "../../fairness/admission.ts";
import { ended } from "../../workers/end-reason.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import { upstreamFamily } from "../dial.ts";
import type { Router } from "../router.ts";
import type { TcpConnection } from "./connection.ts";
import type { PhaseHandler } from "./phase.ts";

/** Decides whether a connection whose client is known gets a place. */
export type Admit = (connection: TcpConnection) => Admitted;

export class Route implements PhaseHandler<TcpConnection> {
  private readonly loop: Pick<EventLoop, "now">;
  private readonly router: Pick<Router, "pool" | "rules">;
  private readonly admit: Admit;

  constructor(loop: Pick<EventLoop, "now">, router: Pick<Router, "pool" | "rules">, admit: Admit) {
    this.loop = loop;
    this.router = router;
    this.admit = admit;
  }

  enter(connection: TcpConnection): void {
    if (!connection.hasPlace) {
      const verdict = this.admit(connection);
      if (verdict === "waits") return connection.setState("queue");
      if (verdict !== "placed") return connection.abort(verdict);
      connection.hasPlace = true;
    }
    this.choose(connection);
  }

  /** Picks an upstream that was not tried yet. Without one the connection ends. */
  private choose(connection: TcpConnection): void {
    const { pool, rules } = this.router;
    const { attemptEnd, client, id, tried } = connection;
    if (pool === undefined) {
      if (attemptEnd !== undefined) return connection.close(attemptEnd, true);
      return connection.setState("dial");
    }
    if (tried.length < connectAttemptsMax) {
      const family = upstreamFamily(rules, client);
      connection.picked = pool.pick(client.address, family, id, tried, this.loop.now);
    }
    if (connection.picked === undefined) {
      return connection.close(attemptEnd ?? ended("no-upstream"), true);
    }
    connection.setState("dial");
  }
}

/** Waits for a place. `Admission` calls `proceed` when there is one. */
export class Queue implements PhaseHandler<TcpConnection> {
  private readonly task: Pick<ForwardTask, "timeouts">;

  constructor(task: Pick<ForwardTask, "timeouts">) {
    this.task = task;
  }

  enter(connection: TcpConnection): void {
    connection.arm(this.task.timeouts.connectMs);
  }

  /** The connection has a place. */
  proceed(connection: TcpConnection): void {
    connection.hasPlace = true;
    connection.setState("route");
  }

  onTimer(connection: TcpConnection): void {
    connection.abort("no-room");
  }
}
