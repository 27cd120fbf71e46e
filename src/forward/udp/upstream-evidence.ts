/** Reports to a Worker's pool how its upstreams treat sessions: answers, failures, silence. */

import { EHOSTUNREACH } from "../../../ffi/errno.ts";
import { silenceMs, silentSessionsMax } from "../../engine/limits.ts";
import { hearSoftErrors } from "../../engine/udp-sockets.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import type { ServiceContext } from "../../workers/service-context.ts";
import { failureKind } from "../connect-errors.ts";
import type { UpstreamPool } from "../upstream-pool.ts";
import type { Session, SessionStart } from "./session.ts";
import type { SessionTable } from "./session-table.ts";
import { Unanswered } from "./unanswered.ts";

export class UpstreamEvidence {
  private readonly pool: UpstreamPool | undefined;
  private readonly table: SessionTable;
  private readonly context: ServiceContext;
  private readonly unanswered = new Unanswered();

  constructor(pool: UpstreamPool | undefined, table: SessionTable, context: ServiceContext) {
    this.pool = pool;
    this.table = table;
    this.context = context;
  }

  /**
   * Checks whether a session shows that its upstream is silent: it has no answer, but its client
   * has had one from another upstream. A client that nobody answers shows nothing.
   */
  noteSilence(session: Session): void {
    const { start, startedAt, isSilent, receivedDatagrams } = session;
    const { now } = this.context.loop;
    // Nothing was sent, if no datagram had a hop left.
    if (isSilent || receivedDatagrams > 0 || session.sentDatagrams === 0) return;
    if (now < Math.min(startedAt + silenceMs, this.table.deadline(start.slot))) return;
    session.isSilent = true;
    this.nameSilent(formatSocketAddress(start.upstream));
    if (start.picked === undefined || !this.table.isClientAnswered(start.slot)) return;
    this.pool?.silent(start.picked, start.id, now, start.client.address, startedAt);
  }

  private nameSilent(upstream: string): void {
    if (!this.unanswered.silent(upstream)) return;
    this.context.warn(
      `udp://${upstream} has answered none of ${silentSessionsMax} sessions within ` +
        `${silenceMs / 1000} s: what answers from another port than it was asked at, as TFTP ` +
        "does, cannot be carried",
      { kind: "silent upstreams" },
    );
  }

  /** A session has had its first answer. */
  answered({ picked, client, upstream, upstreamFd }: SessionStart): void {
    if (!this.unanswered.isEmpty) this.unanswered.answered(formatSocketAddress(upstream));
    if (picked === undefined) return;
    hearSoftErrors(upstreamFd, upstream, false);
    this.pool?.connected(picked, client.address, this.context.loop.now);
  }

  /**
   * A session has failed. If it was sent from the client's address, that counts for this client
   * alone; if from our address, for all. The kernel makes EHOSTUNREACH also of an ICMP "time
   * exceeded", which a client can cause by its hop limit: that counts for the client alone, too.
   */
  failed(
    { picked, id, client }: Pick<SessionStart, "picked" | "id" | "client">,
    source: string,
    reason: string,
    errno = 0,
  ): void {
    if (picked === undefined) return;
    const isItsOwn = source === "client" || errno === EHOSTUNREACH;
    const witness = isItsOwn ? client.address : undefined;
    this.pool?.countFailure(picked, failureKind(errno));
    this.pool?.failed(picked, id, this.context.loop.now, reason, witness);
  }
}
