/** The task of a server for one user, as `bind` and the demo run it: clients have no shares. */

import * as limits from "../engine/limits.ts";
import { unbounded } from "../fairness/client-limits.ts";
import type { RespondTask, ServedSocket } from "../workers/protocol.ts";

/** Answers all that arrives at `socket`, within the fixed bounds. */
export function respondTask(socket: ServedSocket, answer: RespondTask["answer"]): RespondTask {
  return {
    kind: "respond",
    sockets: [socket],
    answer,
    answers: { amplifies: true, perSecond: 0 },
    max: 0,
    idleTimeoutMs: limits.idleTimeoutMs,
    connectionsMax: limits.heldConnectionsMax,
    queueMax: limits.queueMin,
    clients: unbounded,
    report: true,
  };
}
