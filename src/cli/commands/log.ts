/** `tproxy log`: the last lines of a running process, and how much it logs. */

import { object } from "@optique/core/constructs";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import { timeStamp } from "../../log/time.ts";
import { formatDuration } from "../../net/duration.ts";
import { printJson, printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { durationValue, numberValue, wordValue } from "../options/values.ts";
import { prose } from "../prose.ts";

const levels = ["error", "warning", "info", "debug"] as const;
const levelValue = () => wordValue("error|warning|info|debug", levels);

const fields = object({
  command: constant("log"),
  ...inGroup("Arguments", {
    action: optional(
      argument(wordValue("level", ["level"]), {
        description: prose`${"level"}: change how much is logged, to the LEVEL behind it.`,
      }),
    ),
    newLevel: optional(
      argument(levelValue(), { description: prose`The level to log at from now on.` }),
    ),
  }),
  ...inGroup("Which lines", {
    follow: withDefault(
      flag("-f", "--follow", { description: prose`Go on with the lines that come.` }),
      false,
    ),
    lines: withDefault(
      option("-n", "--lines", numberValue("N", 0, 1000), {
        description: prose`Show the last N lines; 1000 by default, which is all that is kept.`,
      }),
      1000,
    ),
    level: optional(
      option("--level", levelValue(), {
        description: prose`Only lines of this level or a graver one.`,
      }),
    ),
    service: optional(
      option("--service", string({ metavar: "NAME" }), {
        description: prose`Only of this service.`,
      }),
    ),
  }),
  ...inGroup("Change", {
    for: optional(
      option("--for", durationValue(), {
        description: prose`With ${"level"}: fall back after this long.`,
      }),
    ),
  }),
  ...inGroup("Output", {
    json: withDefault(
      flag("--json", { description: prose`Print each line as a JSON object.` }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
});

/** The command `log` for the argument parser. */
export const logCommand = command("log", fields, {
  usageLine: usageLine("[level LEVEL] [OPTIONS]"),
  brief: prose`Show the last lines that a running process has logged, or change how much it logs.`,
  description: prose`The process keeps its last 1,000 lines. ${"tproxy log level debug"} also logs
    connections when they begin.`,
  footer: examplesFooter([
    ["tproxy log -f --level warning", "what goes wrong, as it happens"],
    ["tproxy log level debug --for 5m", "more for five minutes"],
  ]),
});

type LogOptions = InferValue<typeof fields>;

interface Line {
  readonly time: string;
  readonly level: string;
  readonly text: string;
}

/** Runs `log`; the exit status. @throws UsageError, CommandError */
export async function runLog(options: LogOptions, io: ProcessIo): Promise<number> {
  const { action, newLevel, admin, json, follow, lines, level, service } = options;
  const client = new AdminClient(admin);
  if (action === "level") return await changeLevel(client, options, io);
  if (newLevel !== undefined || options.for !== undefined) {
    throw new UsageError('--for is for changing the level: give "level LEVEL"');
  }
  const parameters = new URLSearchParams({ limit: String(lines) });
  if (level !== undefined) parameters.set("level", level);
  if (service !== undefined) parameters.set("service", service);
  const stamp = timeStamp("local");
  const show = (line: Line) => {
    const text = `${stamp(Date.parse(line.time))}${printLine(line.text)}`;
    return io.stdout.write(json ? `${printJson(line)}\n` : `${text}\n`);
  };
  if (!follow) {
    const answer = await client.request("GET", `/v1/log?${parameters}`);
    for (const line of (answer as { readonly lines: readonly Line[] }).lines) void show(line);
    return exitStatus.success;
  }
  parameters.set("follow", "1");
  for await (const { event, data } of client.events(`/v1/log?${parameters}`)) {
    // A slow reader slows the stream, whose lines the process then drops.
    if (event === "line") await show(data as Line);
    if (event === "lost") {
      const { lines: lost } = data as { readonly lines: number };
      void io.stderr.write(`tproxy: ${lost} lines were lost: they were not read in time\n`);
    }
  }
  return exitStatus.success;
}

async function changeLevel(
  client: AdminClient,
  { newLevel, for: ms, follow }: LogOptions,
  { stdout }: ProcessIo,
): Promise<number> {
  if (newLevel === undefined) throw new UsageError(`level needs one of ${levels.join(", ")}`);
  if (follow) throw new UsageError("--follow and level exclude each other: give one of them");
  const time = ms === undefined ? undefined : formatDuration(ms);
  await client.request("PUT", "/v1/log/level", { level: newLevel, for: time });
  const end = time === undefined ? "" : ` for ${time}`;
  void stdout.write(`the log level is ${newLevel}${end}\n`);
  return exitStatus.success;
}
