/** What a Worker's sessions let its pool of upstreams know. */

import { silenceMs } from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import type { Upstream, UpstreamPool } from "../forward/upstream-pool.ts";
import type { Session, SessionStart } from "./session.ts";
import { hearSoftErrors } from "./session-sockets.ts";
import type { SessionTable } from "./session-table.ts";

export class UpstreamEvidence {
  private readonly pool: UpstreamPool | undefined;
  private readonly table: SessionTable;
  private readonly loop: EventLoop;

  /** Without a pool all is lost on it. */
  constructor(pool: UpstreamPool | undefined, table: SessionTable, loop: EventLoop) {
    this.pool = pool;
    this.table = table;
    this.loop = loop;
  }

  /** When `noteSilence` is to be called for a session that begins now. */
  silentAt(picked: Upstream | undefined): number {
    return picked === undefined ? Number.POSITIVE_INFINITY : this.loop.now + silenceMs;
  }

  /**
   * Looks whether a session is a sign that its upstream is silent: no answer yet, to a client that
   * others answer. Who only sends what nobody answers bears no witness.
   */
  noteSilence(session: Session): void {
    const { start, startedAt, isSilent, receivedDatagrams } = session;
    const { now } = this.loop;
    if (start.picked === undefined || isSilent || receivedDatagrams > 0) return;
    // With no hop left nothing has been sent on.
    if (session.sentDatagrams === 0) return;
    if (now < Math.min(startedAt + silenceMs, this.table.deadline(start.slot))) return;
    session.isSilent = true;
    if (!this.table.isClientAnswered(start.slot)) return;
    this.pool?.silent(start.picked, start.id, now, start.client.address, startedAt);
  }

  /** A session's first answer. */
  answered({ picked, client, upstream, upstreamFd }: SessionStart): void {
    if (picked === undefined) return;
    hearSoftErrors(upstreamFd, upstream, false);
    this.pool?.connected(picked, client.address, this.loop.now);
  }

  /** What is sent in a client's name fails for that client, and what is sent in ours for all. */
  failed(
    { picked, id, client }: Pick<SessionStart, "picked" | "id" | "client">,
    source: string,
    reason: string,
  ): void {
    if (picked === undefined) return;
    const witness = source === "client" ? client.address : undefined;
    this.pool?.failed(picked, id, this.loop.now, reason, witness);
  }
}
