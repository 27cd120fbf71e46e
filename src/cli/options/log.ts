/** The options of every command that logs. */

import { optional, withDefault } from "@optique/core/modifiers";
import { flag, option } from "@optique/core/primitives";
import { logTimes } from "../../log/time.ts";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { wordValue } from "./values.ts";

/** Explains the first characters of a text line, for the description of a command. */
export const marksText = prose`Lines begin with ${"[+]"} for an open socket, ${"[ ]"} for
  normal operation, ${"[-]"} for a failure or an early end, or ${"[!]"} for a warning.`;

export const logFields = {
  ...inGroup("Output", {
    logTime: optional(
      option("--log-time", wordValue("local|utc|none", logTimes), {
        description: prose`The time at the start of each line of text: ${"local"} (the default) with
          its offset from UTC, ${"utc"}, or ${"none"}, which is the default where systemd's journal
          reads the lines.`,
      }),
    ),
    logLossless: withDefault(
      flag("--log-lossless", {
        description: prose`Lose no line. Traffic waits for a slow reader of standard output, and the
          command ends if nobody reads or the disk is full. By default lines are dropped, and a
          later line counts them.`,
      }),
      false,
    ),
  }),
};
