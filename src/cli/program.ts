/** The program: its commands, its help, and how a parsed command line is carried out. */

import { or } from "@optique/core/constructs";
import { runParser } from "@optique/core/facade";
import { formatMessage, type Message, message, text } from "@optique/core/message";
import { printLine } from "../net/printable.ts";
import { versionText } from "../version.ts";
import { type CommandParser, commands } from "./commands.ts";
import { type Edges, exitStatus, type Sink } from "./edges.ts";
import { examplesFooter } from "./examples.ts";
import { CommandError, UsageError } from "./failure.ts";
import { loadFiles } from "./input-file.ts";
import type { Output } from "./routes.ts";

const names = text([...commands.keys()].join(", "));
const noCommand = message`A command is missing: give one of ${names}`;

/** The parser of everything: for help, completion, and what is no command. */
async function wholeParser(): Promise<CommandParser> {
  const loaded = await Promise.all([...commands.values()].map((load) => load()));
  const parsers = loaded.map(({ parser }) => parser) as [CommandParser, CommandParser];
  return or(...parsers, { errors: { noMatch: noCommand } });
}

/** Thrown when the argument parser has shown what was asked for: help, version, completion. */
class Shown extends Error {}

/** Parses `args` and carries them out; the exit status. Everything has been written by then. */
export async function runProgram(args: readonly string[], edges: Edges): Promise<number> {
  const print = (sink: Sink) => (shown: string) => void sink.write(shown);
  const output: Output = { stdout: print(edges.stdout), stderr: print(edges.stderr) };
  try {
    const load = commands.get(args[0] ?? "");
    if (load === undefined) {
      // Nothing that it accepts is carried out: it begins with a command.
      parse(await wholeParser(), args, output, edges.stdout);
      return exitStatus.usage;
    }
    const command = await load();
    const options = parse(command.parser, args, output, edges.stdout);
    await loadFiles(options);
    return await command.run(options, edges, output);
  } catch (error) {
    if (error instanceof Shown) return exitStatus.success;
    if (!(error instanceof UsageError) && !(error instanceof CommandError)) throw error;
    void edges.stderr.write(`tproxy: ${printLine(error.message)}\n`);
    return error.status;
  } finally {
    await edges.flush();
  }
}

function parse(
  parser: CommandParser,
  args: readonly string[],
  output: Output,
  terminal: Sink,
): unknown {
  const onShow = (): never => {
    throw new Shown();
  };
  return runParser(parser, "tproxy", args, {
    brief: message`The Linux transparent-proxy tool in one file.`,
    footer: examplesFooter([
      ["tproxy demo", "the whole story, with nothing changed on this machine"],
      ["sudo tproxy listen :80", "see who connects, and which address they asked for"],
      ["tproxy listen --help", "more of one command"],
    ]),
    usageLine: [{ type: "literal", value: "COMMAND" }, { type: "ellipsis" }],
    termWidth: "auto",
    colors: terminal.colors,
    ...(terminal.columns === undefined ? {} : { maxWidth: terminal.columns }),
    help: { command: true, option: true, onShow },
    version: { value: versionText(), option: true, onShow },
    completion: { command: true, onShow },
    aboveError: "none",
    stdout: (text) => output.stdout(`${text}\n`),
    // Errors are thrown by `onError`, in the form of all others.
    stderr: () => {},
    onError: (_status, error): never => {
      throw new UsageError(errorText(error, args));
    },
  });
}

/**
 * The argument parser's error in the form of all others: one line, and behind it where to read
 * what would be accepted, unless the line says so itself.
 */
function errorText(error: Message, args: readonly string[]): string {
  // What the user wrote is quoted; the option or argument that the line begins with is not.
  const line = printLine(formatMessage(error, { quotes: true }).replace(/\s+/g, " "))
    .replace(/^`([^`]*)`/, "$1")
    .replaceAll("`", '"')
    .trim();
  if (/give |mean |Available/.test(line)) return line;
  const name = commands.has(args[0] ?? "") ? ` ${args[0]}` : "";
  return `${line.replace(/\.$/, "")}; "tproxy${name} --help" says what is accepted`;
}
