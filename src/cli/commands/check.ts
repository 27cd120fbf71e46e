/** `tproxy check`: whether a configuration file can be carried out. */

import { object } from "@optique/core/constructs";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag } from "@optique/core/primitives";
import type { ReadConfiguration } from "../../config/file.ts";
import { type ConfigProblem, problemText } from "../../config/problem.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus } from "../../errors.ts";
import { printJson, printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { configOption } from "../options/config.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("check"),
  ...inGroup("Configuration", { config: configOption }),
  ...inGroup("Output", {
    json: withDefault(
      flag("--json", { description: prose`Print each problem as JSON, one object a line.` }),
      false,
    ),
  }),
});

/** The command `check` for the argument parser. */
export const checkCommand = command("check", fields, {
  usageLine: usageLine("[-c FILE] [OPTIONS]"),
  brief: prose`Check a configuration file, and print each problem with its line and column.`,
  description: prose`Reads the configuration, its included files and its lists of networks. It
    changes nothing and needs no privilege. The exit status is 0 for a valid configuration, and 2
    for one with problems.`,
  footer: examplesFooter([
    ["tproxy check", "the configuration of this host"],
    ["tproxy check -c ./tproxy.toml", "another file, before it is installed"],
  ]),
});

/** Runs `check`; the exit status. */
export async function runCheck(
  { config, json }: InferValue<typeof fields>,
  { stdout, stderr }: ProcessIo,
): Promise<number> {
  const { problems, configuration } = await readConfigurationFile(config);
  if (configuration === undefined) {
    if (json) void stdout.write(problems.map(problemJson).join(""));
    else void stderr.write(problemLines(problems));
    return exitStatus.usage;
  }
  const { services, pools } = configuration;
  const many = [counted(services.length, "service"), counted(pools.length, "pool")].join(", ");
  if (!json) void stdout.write(`${printLine(config)}: valid: ${many}\n`);
  return exitStatus.success;
}

/** Reads a configuration of this host. What reads it is loaded now: not for the help. */
export async function readConfigurationFile(file: string): Promise<ReadConfiguration> {
  const { readConfiguration } = await import("../../config/file.ts");
  const { configurationSystem } = await import("../../control/config-system.ts");
  return readConfiguration(file, configurationSystem);
}

/** Problems as lines for people, and for editors that jump to the place. */
export function problemLines(problems: readonly ConfigProblem[]): string {
  return problems.map((each) => `${printLine(problemText(each))}\n`).join("");
}

function problemJson({ file, at, text }: ConfigProblem): string {
  return `${printJson({ event: "problem", file, ...at, message: text })}\n`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
