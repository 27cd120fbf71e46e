/** The options of every command that logs. */

import { optional, withDefault } from "@optique/core/modifiers";
import { flag, option } from "@optique/core/primitives";
import { logTimes } from "../../log/time.ts";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { wordValue } from "./values.ts";

/** What the first characters of a line of text mean, for the description of a command. */
export const marksText = prose`Lines begin with ${"[+]"} for a socket that is open, ${"[ ]"} for
  what is as usual, ${"[-]"} for what failed or ended early, and ${"[!]"} for a warning.`;

export const logFields = {
  ...inGroup("Output", {
    logTime: optional(
      option("--log-time", wordValue("local|utc|none", logTimes), {
        description: prose`The time in front of each line of text: ${"local"} with its offset from
        UTC, the default; ${"utc"}; ${"none"}, the default where systemd's journal takes the
        lines.`,
      }),
    ),
    logLossless: withDefault(
      flag("--log-lossless", {
        description: prose`Lose no line: when the reader of standard output is slow, the traffic
        waits for it, and when nobody reads or the disk is full, the command ends. Without it,
        lines are dropped, and a line says how many.`,
      }),
      false,
    ),
  }),
};
