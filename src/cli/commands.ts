/**
 * The commands by name. Each is loaded when it is wanted: its argument parser alone costs several
 * milliseconds to build.
 */

import type { Parser } from "@optique/core/parser";
import type { Edges } from "./edges.ts";
import type { Output } from "./routes.ts";

/** What the argument parser of a command is, whatever it answers. */
export type CommandParser = Parser<"sync", unknown, unknown>;

/** The whole command line, the command included. */
type Arguments = readonly string[];

export interface Command {
  readonly parser: CommandParser;
  /** Carries out what the parser has made of `args`; the exit status. */
  run(options: unknown, edges: Edges, output: Output, args: Arguments): Promise<number> | number;
}

/** Ties a parser to what takes its answers. */
function command<Options>(
  parser: Parser<"sync", Options, unknown>,
  run: (
    options: Options,
    edges: Edges,
    output: Output,
    args: Arguments,
  ) => Promise<number> | number,
): Command {
  return { parser, run: (options, ...rest) => run(options as Options, ...rest) };
}

const loaders: Readonly<Record<string, () => Promise<Command>>> = {
  bind: async () => {
    const { bindCommand, runBind } = await import("./bind.ts");
    return command(bindCommand, runBind);
  },
  listen: async () => {
    const { listenCommand, runListen } = await import("./listen.ts");
    return command(listenCommand, runListen);
  },
  forward: async () => {
    const { complete, forwardCommand } = await import("./forward-options.ts");
    const { runForward } = await import("./forward.ts");
    return command(forwardCommand, (options, edges) => runForward(complete(options), edges));
  },
  routes: async () => {
    const { routesCommand, runRoutes } = await import("./routes.ts");
    const { isLiveAction } = await import("./rule-options.ts");
    return command(routesCommand, async (options, edges, output) => {
      if (!isLiveAction(options)) return runRoutes(options, output);
      const { runRules } = await import("./rules.ts");
      return runRules(options, edges);
    });
  },
  doctor: async () => {
    const { doctorCommand, runDoctor } = await import("./doctor.ts");
    return command(doctorCommand, (options, edges, _output, args) =>
      runDoctor(options, edges, args),
    );
  },
  explain: async () => {
    const { explainCommand, runExplain } = await import("./explain.ts");
    return command(explainCommand, (options, edges, _output, args) =>
      runExplain(options, edges, args),
    );
  },
  check: async () => {
    const { checkCommand, runCheck } = await import("./check.ts");
    return command(checkCommand, (options, edges) => runCheck(options, edges));
  },
  config: async () => {
    const { configCommand, runConfig } = await import("./config.ts");
    return command(configCommand, (options, edges) => runConfig(options, edges));
  },
  demo: async () => {
    const { demoCommand, runDemo } = await import("./demo.ts");
    return command(demoCommand, (options, edges) => runDemo(options, edges));
  },
};

/** By name, what loads it. */
export const commands: ReadonlyMap<string, () => Promise<Command>> = new Map(
  Object.entries(loaders),
);
