/** The program: parses a command line, shows help, and runs the command. */

import { or } from "@optique/core/constructs";
import type { DocPage } from "@optique/core/doc";
import { runParser } from "@optique/core/facade";
import { formatMessage, type Message, message, text } from "@optique/core/message";
import { getDocPage } from "@optique/core/parser";
import { extractCommandNames, extractOptionNames } from "@optique/core/usage";
import type { ProcessIo } from "../control/process-io.ts";
import { CommandError, exitStatus, UsageError } from "../errors.ts";
import type { Sink } from "../log/sink.ts";
import { printLine } from "../net/printable.ts";
import { versionText } from "../version.ts";
import type { Output } from "./commands/routes.ts";
import { type CommandParser, commands } from "./commands.ts";
import { completeShells, shells } from "./complete-shells.ts";
import { examplesFooter } from "./examples.ts";
import { loadFiles } from "./input-file.ts";
import { usageLine } from "./options/groups.ts";

const names = text([...commands.keys()].join(", "));
const noCommand = message`A command is missing: give one of ${names}`;
const usage = usageLine("COMMAND [OPTIONS]");

/** The parser of all commands: for help, completion, and unknown commands. */
async function wholeParser(): Promise<CommandParser> {
  const loaded = await Promise.all([...commands.values()].map((load) => load()));
  const parsers = loaded.map(({ parser }) => parser) as [CommandParser, CommandParser];
  return or(...parsers, { errors: { noMatch: noCommand } });
}

/** Thrown when the argument parser has shown the version or a completion. */
class Shown extends Error {}

/** Thrown when help was asked for. */
class HelpWanted extends Error {
  readonly page: DocPage;

  constructor(page: DocPage) {
    super();
    this.page = page;
  }
}

/** Thrown for arguments that the parser rejects. */
class BadArguments extends Error {
  readonly error: Message;
  readonly parser: CommandParser;

  constructor(error: Message, parser: CommandParser) {
    super();
    this.error = error;
    this.parser = parser;
  }
}

/** Parses `args` and runs the command; returns the exit status after all output is written. */
export async function runProgram(args: readonly string[], io: ProcessIo): Promise<number> {
  const print = (sink: Sink) => (shown: string) => void sink.write(shown);
  const output: Output = { stdout: print(io.stdout), stderr: print(io.stderr) };
  try {
    return await carryOut(args, io, output);
  } catch (error) {
    if (error instanceof Shown) return exitStatus.success;
    if (error instanceof HelpWanted) {
      const { renderHelp } = await import("./help.ts");
      output.stdout(renderHelp(error.page, io.stdout));
      return exitStatus.success;
    }
    const told = error instanceof BadArguments ? await usageError(error, args) : error;
    if (!(told instanceof UsageError) && !(told instanceof CommandError)) throw told;
    void io.stderr.write(`tproxy: ${printLine(told.message)}\n`);
    return told.status;
  } finally {
    await io.flush();
  }
}

async function carryOut(args: readonly string[], io: ProcessIo, output: Output): Promise<number> {
  const load = commands.get(args[0] ?? "");
  if (load === undefined) {
    const offered = completeShells(args);
    if (offered !== undefined) {
      output.stdout(offered);
      return exitStatus.success;
    }
    const parser = await wholeParser();
    if (args.length === 0) return showCommands(parser, io);
    // Nothing that it accepts is carried out: it begins with a command.
    parse(parser, args, output);
    return exitStatus.usage;
  }
  const command = await load(args);
  const options = parse(command.parser, args, output);
  await loadFiles(options);
  return await command.run(options, io, output, args);
}

/** Without arguments: prints the list of commands on standard error. */
async function showCommands(parser: CommandParser, { stderr }: ProcessIo): Promise<number> {
  const { renderHelp } = await import("./help.ts");
  const sections = getDocPage(parser)?.sections ?? [];
  const more = text('"tproxy COMMAND --help" says more of one, and "tproxy demo" shows all of it.');
  const page = { usage, sections };
  void stderr.write(renderHelp({ ...page, footer: [more] }, stderr));
  return exitStatus.usage;
}

function parse(parser: CommandParser, args: readonly string[], output: Output): unknown {
  // Help has our own format; everything else is printed as it is.
  let shown = "";
  const onShow = (): never => {
    output.stdout(shown);
    throw new Shown();
  };
  const onHelp = (_status: number, page: DocPage): never => {
    throw new HelpWanted(page);
  };
  return runParser(parser, "tproxy", args, {
    brief: message`The Linux transparent-proxy tool in one file.`,
    footer: examplesFooter([
      ["tproxy demo", "the whole story, with nothing changed on this machine"],
      ["sudo tproxy listen :80", "see who connects, and which address they asked for"],
      ["tproxy listen --help", "more of one command"],
    ]),
    usageLine: usage,
    help: { command: true, option: { names: ["-h", "--help"] }, onShow: onHelp },
    version: { value: versionText(), option: { names: ["-V", "--version"] }, onShow },
    completion: { command: true, shells, onShow },
    aboveError: "none",
    stdout: (text) => {
      shown += `${text}\n`;
    },
    // `onError` throws errors in the common form.
    stderr: () => {},
    onError: (_status, error): never => {
      throw new BadArguments(error, parser);
    },
  });
}

/**
 * The argument parser's error in the common form: one line, followed by a guess of what was meant,
 * or by the help to read, unless the line names what would be accepted.
 */
async function usageError(bad: BadArguments, args: readonly string[]): Promise<UsageError> {
  const { detachedValue, hintFor } = await import("./hints.ts");
  const detached = detachedValue(args);
  if (detached !== undefined) return new UsageError(detached);
  // Quotes the user's text, but not the option or argument at the start of the line.
  const line = printLine(formatMessage(bad.error, { quotes: true }).replace(/\s+/g, " "))
    .replace(/^`([^`]*)`/, "$1")
    .replaceAll("`", '"')
    .trim();
  const isUnexpected = line.startsWith("Unexpected ");
  if (!isUnexpected && /give |mean |Available/.test(line)) return new UsageError(line);
  const name = commands.has(args[0] ?? "") ? args[0] : undefined;
  const [, head = line.replace(/\.$/, "")] = /^(.*?)\. Did you mean /.exec(line) ?? [];
  const hint = hintFor(isUnexpected ? unexpected(bad.error) : undefined, {
    args,
    names:
      name === undefined
        ? [...commands.keys(), ...extractCommandNames(bad.parser.usage)]
        : [...extractOptionNames(bad.parser.usage)],
    listens: name === "listen" || name === "forward" || name === "bind",
  });
  if (hint !== undefined) return new UsageError(head + hint);
  const command = name === undefined ? "" : ` ${name}`;
  return new UsageError(`${head}; "tproxy${command} --help" says what is accepted`);
}

/** The unexpected argument in the parser's error. */
function unexpected(error: Message): string | undefined {
  for (const term of error) {
    if (term.type === "value") return term.value;
    if (term.type === "optionName") return term.optionName;
  }
  return undefined;
}
