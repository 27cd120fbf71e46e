/** `tproxy config`: shows what a configuration file amounts to, its schema, and its layout. */

import { object } from "@optique/core/constructs";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag } from "@optique/core/primitives";
import type { ProcessIo } from "../../control/process-io.ts";
import { InputError, readInput } from "../../control/read-input.ts";
import { replaceFile } from "../../control/replace-file.ts";
import { configurationBytesMax } from "../../engine/limits.ts";
import { CommandError, exitStatus, UsageError } from "../../errors.ts";
import { printJson } from "../../net/printable.ts";
import { quote } from "../../net/result.ts";
import { examplesFooter } from "../examples.ts";
import { configOption } from "../options/config.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { wordValue } from "../options/values.ts";
import { prose } from "../prose.ts";
import { problemLines, readConfigurationFile } from "./check.ts";

const fields = object({
  command: constant("config"),
  ...inGroup("Arguments", {
    action: argument(wordValue("show|schema|fmt", ["show", "schema", "fmt"]), {
      description: prose`${"show"}: print what applies to each service, defaults included, as TOML.
        ${"schema"}: print the JSON Schema of the file, for editors. ${"fmt"}: print the file in its
        standard layout.`,
      errors: { endOfInput: prose`An action is missing: give ${"show"}, ${"schema"} or ${"fmt"}` },
    }),
  }),
  ...inGroup("Configuration", { config: configOption }),
  ...inGroup("Output", {
    origin: withDefault(
      flag("--origin", {
        description: prose`With ${"show"}: after each line, name the file and line that it comes
          from.`,
      }),
      false,
    ),
    write: withDefault(
      flag("--write", {
        description: prose`With ${"fmt"}: write the file instead of standard output.`,
      }),
      false,
    ),
  }),
});

/** The command `config` for the argument parser. */
export const configCommand = command("config", fields, {
  usageLine: usageLine("show|schema|fmt [-c FILE] [OPTIONS]"),
  brief: prose`Show a configuration with all defaults, its JSON Schema, or its standard layout.`,
  description: prose`Reads the same file as ${"tproxy check"}. The output of ${"show"} is itself a
    configuration that does the same.`,
  footer: examplesFooter([
    ["tproxy config show --origin", "where each setting comes from"],
    ["tproxy config schema", "for completion in an editor"],
    ["tproxy config fmt -c ./tproxy.toml --write", "lay the file out"],
  ]),
});

type ConfigOptions = InferValue<typeof fields>;

/** Runs `config`; the exit status. @throws UsageError, CommandError */
export async function runConfig(options: ConfigOptions, io: ProcessIo): Promise<number> {
  const { action, origin, write } = options;
  if (origin && action !== "show") throw new UsageError("--origin is for show: leave it out");
  if (write && action !== "fmt") throw new UsageError("--write is for fmt: leave it out");
  if (action === "schema") return printSchema(io);
  return action === "show" ? show(options, io) : format(options, io);
}

async function printSchema({ stdout }: ProcessIo): Promise<number> {
  const { configurationSchema } = await import("../../config/json-schema.ts");
  void stdout.write(`${printJson(configurationSchema(), 2)}\n`);
  return exitStatus.success;
}

async function show({ config, origin }: ConfigOptions, io: ProcessIo): Promise<number> {
  const { problems, settings, originOf } = await readConfigurationFile(config);
  if (problems.length > 0) {
    void io.stderr.write(problemLines(problems));
    return exitStatus.usage;
  }
  const { effectiveSettings } = await import("../../config/effective.ts");
  const { writeToml } = await import("../../config/write.ts");
  void io.stdout.write(writeToml(effectiveSettings(settings), origin ? originOf : undefined));
  return exitStatus.success;
}

async function format({ config, write }: ConfigOptions, io: ProcessIo): Promise<number> {
  if (write && config === "-") throw new UsageError("--write needs --config FILE");
  const text = await read(config);
  const { formatConfiguration } = await import("../../config/format.ts");
  const formatted = formatConfiguration(config, text);
  if (typeof formatted !== "string") {
    void io.stderr.write(problemLines(formatted));
    return exitStatus.usage;
  }
  if (!write) void io.stdout.write(formatted);
  else if (formatted !== text) await replace(config, formatted);
  return exitStatus.success;
}

async function read(file: string): Promise<string> {
  try {
    const bytes = await readInput(file, configurationBytesMax);
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    const reason = error instanceof InputError ? error.message : "this is not UTF-8";
    throw new UsageError(`Cannot read ${quote(file)}: ${reason}; give a readable file`);
  }
}

async function replace(file: string, text: string): Promise<void> {
  try {
    await replaceFile(file, text);
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException;
    throw new CommandError(`Cannot write ${quote(file)}: ${code}`);
  }
}
