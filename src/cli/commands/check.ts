/** `tproxy check`: whether a configuration file can be carried out. */

import { object } from "@optique/core/constructs";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag } from "@optique/core/primitives";
import type { ReadConfiguration } from "../../config/file.ts";
import { type ConfigProblem, problemText } from "../../config/problem.ts";
import type { LiveFinding, RunningConfiguration } from "../../control/live-check.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { CommandError, exitStatus } from "../../errors.ts";
import { printJson, printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { configOption } from "../options/config.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("check"),
  ...inGroup("Configuration", {
    config: configOption,
    live: withDefault(
      flag("--live", {
        description: prose`Also compare it with this host and with the process that runs: names,
          users, interfaces, addresses, rules of others, and what a reload would change.`,
      }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
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
    for one with problems. With ${"--live"} it is 1 if something of it cannot be had on this host,
    and 4 if only an upgrade of the process that runs can take it over; what takes privileges that
    you do not have is a warning.`,
  footer: examplesFooter([
    ["tproxy check", "the configuration of this host"],
    ["tproxy check -c ./tproxy.toml", "another file, before it is installed"],
    ["sudo tproxy check --live", "whether it can be taken over here, and what would change"],
  ]),
});

/** Runs `check`; the exit status. */
export async function runCheck(
  { config, json, live, admin }: InferValue<typeof fields>,
  io: ProcessIo,
): Promise<number> {
  const { stdout, stderr } = io;
  const { problems, configuration } = await readConfigurationFile(config);
  if (configuration === undefined) {
    if (json) void stdout.write(problems.map(problemJson).join(""));
    else void stderr.write(problemLines(problems));
    return exitStatus.usage;
  }
  if (live) {
    const { checkLive } = await import("../../control/live-check.ts");
    const found = await checkLive(configuration, await runningConfiguration(admin, io), io);
    void stdout.write(found.map(json ? findingJson : findingLine).join(""));
    if (found.length > 0) return liveStatus(found);
  }
  const { services, pools } = configuration;
  const many = [counted(services.length, "service"), counted(pools.length, "pool")].join(", ");
  if (!json) void stdout.write(`${printLine(config)}: valid: ${many}\n`);
  return exitStatus.success;
}

/** What the process that runs serves; undefined if none does, or it cannot be asked. */
async function runningConfiguration(
  admin: string | undefined,
  { stderr }: Pick<ProcessIo, "stderr">,
): Promise<RunningConfiguration | undefined> {
  const { AdminClient } = await import("../../control/admin/client.ts");
  const { readConfiguration } = await import("../../config/file.ts");
  const { configurationSystem } = await import("../../control/config-system.ts");
  let text: string;
  try {
    text = (await new AdminClient(admin).ask("GET", "/v1/config")).body;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    void stderr.write(`tproxy: ${printLine(error.message)}: compared with no process\n`);
    return undefined;
  }
  const file = "the process that runs";
  const read = async () => new TextEncoder().encode(text);
  const { configuration, settings } = await readConfiguration(file, {
    ...configurationSystem,
    read,
  });
  return configuration && { settings, services: configuration.services };
}

function findingLine({ event, text }: LiveFinding): string {
  const mark = { problem: "problem: ", warning: "warning: ", change: "", upgrade: "upgrade: " };
  return `${printLine(mark[event] + text)}\n`;
}

function findingJson({ event, text }: LiveFinding): string {
  return `${printJson({ event, message: text })}\n`;
}

function liveStatus(found: readonly LiveFinding[]): number {
  const has = (wanted: LiveFinding["event"]) => found.some(({ event }) => event === wanted);
  if (has("problem")) return exitStatus.failure;
  return has("upgrade") ? exitStatus.needsUpgrade : exitStatus.success;
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
