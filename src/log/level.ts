/** How grave a line of the log is. Pure. */

import { isUsual } from "../workers/end-reason.ts";
import { LogLevel, type WorkerEvent } from "../workers/protocol.ts";

/** The levels by their number in `LogLevel`. */
const levelNames = ["error", "warning", "info", "debug"] as const;
export type LevelName = (typeof levelNames)[number];

/** The same as syslog has them, which the journal takes (sd-daemon(3)). */
export const priorities: Readonly<Record<LevelName, number>> = {
  ...{ error: 3, warning: 4, info: 6, debug: 7 },
};

/** The level of what a Worker reports. */
export function levelOf(event: WorkerEvent): LevelName {
  switch (event.kind) {
    case "died":
      return "error";
    case "warning":
    case "lost":
    case "fault":
    case "refused":
      return "warning";
    case "accepted":
    case "reached":
      return "debug";
    case "forwarded":
      return event.end === undefined || isUsual(event.end, event.protocol) ? "info" : "warning";
    case "closed":
      return isUsual(event.end, "tcp") ? "info" : "warning";
    default:
      return "info";
  }
}

/** Whether a level is logged where `limit`, of `LogLevel`, is the last one that is. */
export function isLogged(level: LevelName, limit: number): boolean {
  return LogLevel[level] <= limit;
}
