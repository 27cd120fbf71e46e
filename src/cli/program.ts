/** The program: its commands, its help, and how a parsed command line is carried out. */

import { or } from "@optique/core/constructs";
import { message } from "@optique/core/message";
import { run } from "@optique/run";
import { versionText } from "../version.ts";
import { bindCommand, runBind } from "./bind.ts";
import { demoCommand, runDemo } from "./demo.ts";
import { type Edges, exitStatus, type Sink } from "./edges.ts";
import { examplesFooter } from "./examples.ts";
import { CommandError, UsageError } from "./failure.ts";
import { listenCommand, runListen } from "./listen.ts";
import { escapeControls } from "./printable.ts";
import { type Output, routesCommand, runRoutes } from "./routes.ts";

const commandNames = ["bind", "listen", "routes", "demo"];
const parser = or(bindCommand, listenCommand, routesCommand, demoCommand, {
  errors: { noMatch: message`A command is missing: give bind, listen, routes or demo` },
});

/** Thrown by the argument parser's exit hook, which must not return. */
class Exit {
  readonly status: number;

  constructor(status: number) {
    this.status = status;
  }
}

/** Parses `args` and carries them out; the exit status. Everything has been written by then. */
export async function runProgram(args: readonly string[], edges: Edges): Promise<number> {
  const written: Promise<void>[] = [];
  const print = (sink: Sink) => (shown: string) => void written.push(sink.write(shown));
  const output: Output = { stdout: print(edges.stdout), stderr: print(edges.stderr) };
  try {
    return await carryOut(parse(args, output), output, edges);
  } catch (error) {
    if (error instanceof Exit) return error.status;
    if (!(error instanceof UsageError) && !(error instanceof CommandError)) throw error;
    written.push(edges.stderr.write(`tproxy: ${error.message}\n`));
    return error.status;
  } finally {
    await Promise.all(written);
  }
}

function parse(args: readonly string[], output: Output) {
  return run(parser, {
    programName: "tproxy",
    args,
    brief: message`The Linux transparent-proxy tool in one file.`,
    footer: examplesFooter([
      ["tproxy demo", "the whole story, with nothing changed on this machine"],
      ["sudo tproxy listen :80", "see who connects, and which address they asked for"],
      ["tproxy listen --help", "more of one command"],
    ]),
    usageLine: [{ type: "literal", value: "COMMAND" }, { type: "ellipsis" }],
    termWidth: "auto",
    help: "both",
    version: { value: versionText(), option: true },
    completion: "command",
    aboveError: "none",
    errorExitCode: exitStatus.usage,
    stdout: (text) => output.stdout(`${text}\n`),
    stderr: (text) => output.stderr(errorLine(text, args)),
    onExit: (status) => {
      throw new Exit(status);
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
    case "demo":
      return runDemo(options, edges);
    case "routes":
      return runRoutes(options, output);
  }
}

/**
 * The argument parser's error in the form of all others: one line, our name in front, and behind
 * it where to read what would be accepted, unless that has been said. Empty for the help page that
 * the parser shows after some of its errors.
 */
function errorLine(text: string, args: readonly string[]): string {
  if (!text.startsWith("Error: ")) return "";
  // What the user wrote is quoted; the option or argument that the line begins with is not.
  const line = escapeControls(text.slice("Error: ".length))
    .replace(/^`([^`]*)`/, "$1")
    .replaceAll("`", '"')
    .replace(/\s+/g, " ")
    .trim();
  const name = args[0] !== undefined && commandNames.includes(args[0]) ? ` ${args[0]}` : "";
  const hint = `; "tproxy${name} --help" says what is accepted`;
  const isSaid = /give |mean |Available/.test(line);
  return `tproxy: ${line.replace(/\.$/, "")}${isSaid ? "" : hint}\n`;
}
