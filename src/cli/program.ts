/** The program: its commands, its help, and how a parsed command line is carried out. */

import { or } from "@optique/core/constructs";
import { runParser } from "@optique/core/facade";
import { formatMessage, type Message, message, text } from "@optique/core/message";
import { versionText } from "../version.ts";
import { bindCommand, runBind } from "./bind.ts";
import { demoCommand, runDemo } from "./demo.ts";
import { doctorCommand, runDoctor } from "./doctor.ts";
import { type Edges, exitStatus, type Sink } from "./edges.ts";
import { examplesFooter } from "./examples.ts";
import { explainCommand, runExplain } from "./explain.ts";
import { CommandError, UsageError } from "./failure.ts";
import { runForward } from "./forward.ts";
import { complete, forwardCommand } from "./forward-options.ts";
import { listenCommand, runListen } from "./listen.ts";
import { printLine } from "./printable.ts";
import { type Output, routesCommand, runRoutes } from "./routes.ts";
import { isLiveAction } from "./rule-options.ts";
import { runRules } from "./rules.ts";

const commandNames = ["bind", "listen", "forward", "routes", "doctor", "explain", "demo"];
const parser = or(
  bindCommand,
  listenCommand,
  forwardCommand,
  routesCommand,
  doctorCommand,
  explainCommand,
  demoCommand,
  {
    errors: {
      noMatch: message`A command is missing: give one of ${text(commandNames.join(", "))}`,
    },
  },
);

/** Thrown when the argument parser has shown what was asked for: help, version, completion. */
class Shown extends Error {}

/** Parses `args` and carries them out; the exit status. Everything has been written by then. */
export async function runProgram(args: readonly string[], edges: Edges): Promise<number> {
  const print = (sink: Sink) => (shown: string) => void sink.write(shown);
  const output: Output = { stdout: print(edges.stdout), stderr: print(edges.stderr) };
  try {
    return await carryOut(parse(args, output, edges.stdout), output, edges);
  } catch (error) {
    if (error instanceof Shown) return exitStatus.success;
    if (!(error instanceof UsageError) && !(error instanceof CommandError)) throw error;
    void edges.stderr.write(`tproxy: ${error.message}\n`);
    return error.status;
  } finally {
    await edges.flush();
  }
}

function parse(args: readonly string[], output: Output, terminal: Sink) {
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

function carryOut(
  options: ReturnType<typeof parse>,
  output: Output,
  edges: Edges,
): Promise<number> | number {
  switch (options.command) {
    case "bind":
      return runBind(options, edges);
    case "listen":
      return runListen(options, edges);
    case "forward":
      return runForward(complete(options), edges);
    case "demo":
      return runDemo(options, edges);
    case "doctor":
      return runDoctor(options, edges);
    case "explain":
      return runExplain(options, edges);
    case "routes":
      return isLiveAction(options) ? runRules(options, edges) : runRoutes(options, output);
  }
}

/**
 * The argument parser's error in the form of all others: one line, and behind it where to read
 * what would be accepted, unless the line says so itself.
 */
function errorText(error: Message, args: readonly string[]): string {
  // What the user wrote is quoted; the option or argument that the line begins with is not.
  const line = printLine(formatMessage(error, { quotes: true }))
    .replace(/^`([^`]*)`/, "$1")
    .replaceAll("`", '"')
    .replace(/\s+/g, " ")
    .trim();
  if (/give |mean |Available/.test(line)) return line;
  const name = args[0] !== undefined && commandNames.includes(args[0]) ? ` ${args[0]}` : "";
  return `${line.replace(/\.$/, "")}; "tproxy${name} --help" says what is accepted`;
}
