/** The settings of the log, complete and as somebody has set them. Pure. */

import { ok, quote, refuse } from "../net/result.ts";
import { type Given, integer, setting, table, text, word, yesNo } from "./kinds.ts";
import type { Syntax } from "./syntax.ts";

export const logLevelNames = ["error", "warning", "info", "debug"] as const;
export type LogLevelName = (typeof logLevelNames)[number];

export const logFormats = ["auto", "text", "json", "journal"] as const;
export const loggedConnections = ["all", "failed", "none"] as const;

/** How all of a process logs. */
export interface LogConfiguration {
  readonly level: LogLevelName;
  /** `auto` is text, as the reader of standard output wants it. */
  readonly format: (typeof logFormats)[number];
  /** Undefined: local time, and none where the journal takes the lines. */
  readonly time: "local" | "utc" | "none" | undefined;
  readonly lossless: boolean;
  readonly connections: (typeof loggedConnections)[number];
  /** Of connections that went well one in so many is logged. */
  readonly sample: number;
  /** Where lines of connections go; undefined: where all others go. */
  readonly file: string | undefined;
}

/** How a service logs its connections. */
export type ServiceLog = Pick<LogConfiguration, "level" | "connections" | "sample">;

/** The path of a file, whatever the working directory is. */
const absolutePath: Syntax<string> = {
  parse: (given) =>
    /^\/\P{C}{1,1000}$/u.test(given) && !given.endsWith("/")
      ? ok(given)
      : refuse(`${quote(given)} is not accepted: give the path of a file, from "/" on`),
  format: (given) => given,
};

export const level = word(...logLevelNames);

const settings = {
  level: setting(level, "What is logged."),
  format: setting(
    word(...logFormats),
    "auto: lines of text, which the journal gets with their priority; json: an object a line; " +
      "journal: what is no usual connection goes to the journal with its fields.",
  ),
  time: setting(word("local", "utc", "none"), "The time in front of each line of text."),
  lossless: setting(yesNo, "Lose no line: the traffic waits for a slow reader."),
  connections: setting(
    word(...loggedConnections),
    "Which connections and sessions have a line: all, failed ones, or none.",
  ),
  sample: setting(
    integer(1, 1_000_000),
    "Log one in so many connections that went well; those that failed always.",
  ),
  file: setting(
    text(absolutePath, { examples: ["/var/log/tproxy/connections.log"], pattern: /^\/.+/ }),
    "The file for lines of connections, which a reload opens anew.",
  ),
};

/** The table [log]. */
export const log = table(settings);

/** What applies where nothing is set. */
export const builtInLog = {
  ...{ level: "info", format: "auto", lossless: false, connections: "all", sample: 1 },
} as const satisfies Given<typeof settings>;

/** Fills in the defaults. */
export function completeLog(given: Given<typeof settings> = {}): LogConfiguration {
  return { ...builtInLog, time: undefined, file: undefined, ...given };
}
