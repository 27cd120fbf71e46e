/**
 * The commands by name. Each is loaded when it is named: building its argument parser alone takes
 * several milliseconds.
 */

import type { Parser } from "@optique/core/parser";
import type { ProcessIo } from "../control/process-io.ts";
import type { Output } from "./commands/routes.ts";

/** The argument parser of a command, whatever its result is. */
export type CommandParser = Parser<"sync", unknown, unknown>;

/** The whole command line, the command included. */
type Arguments = readonly string[];

export interface Command {
  readonly parser: CommandParser;
  /** Runs the command with the parsed `args`; returns the exit status. */
  run(options: unknown, io: ProcessIo, output: Output, args: Arguments): Promise<number> | number;
}

/** Ties a parser to the function that takes its result. */
function command<Options>(
  parser: Parser<"sync", Options, unknown>,
  run: (
    options: Options,
    io: ProcessIo,
    output: Output,
    args: Arguments,
  ) => Promise<number> | number,
): Command {
  return { parser, run: (options, ...rest) => run(options as Options, ...rest) };
}

/** `args`: the command line, if there is one; `explain` has a parser for each thing explained. */
type Loader = (args?: Arguments) => Promise<Command>;

const loaders: Readonly<Record<string, Loader>> = {
  bind: async () => {
    const { bindCommand, runBind } = await import("./commands/bind.ts");
    return command(bindCommand, runBind);
  },
  listen: async () => {
    const { listenCommand, runListen } = await import("./commands/listen.ts");
    return command(listenCommand, runListen);
  },
  forward: async () => {
    const { forwardCommand } = await import("./options/forward.ts");
    const { runForward } = await import("./commands/forward.ts");
    return command(forwardCommand, (options, io) => runForward(options, io));
  },
  run: async () => {
    const { runCommand, runRun } = await import("./commands/run.ts");
    return command(runCommand, (options, io) => runRun(options, io));
  },
  top: async () => {
    const { topCommand, runTop } = await import("./commands/top.ts");
    return command(topCommand, (options, io) => runTop(options, io));
  },
  reload: async () => {
    const { reloadCommand, runReload } = await import("./commands/reload.ts");
    return command(reloadCommand, (options, io) => runReload(options, io));
  },
  routes: async () => {
    const { routesCommand, runRoutes } = await import("./commands/routes.ts");
    const { isLiveAction } = await import("./options/rules.ts");
    return command(routesCommand, async (options, io, output) => {
      if (!isLiveAction(options)) return runRoutes(options, output);
      const { runRules } = await import("./rules.ts");
      return runRules(options, io);
    });
  },
  doctor: async () => {
    const { doctorCommand, runDoctor } = await import("./commands/doctor.ts");
    return command(doctorCommand, (options, io, _output, args) => runDoctor(options, io, args));
  },
  explain: async (args) => {
    if (args?.[1] === "forward") {
      const { explainForwardCommand, runExplainForward } = await import(
        "./commands/explain-forward.ts"
      );
      return command(explainForwardCommand, (options, io, _output, given) =>
        runExplainForward(options, io, given),
      );
    }
    const { explainCommand, runExplain } = await import("./commands/explain.ts");
    return command(explainCommand, (options, io, _output, args) => runExplain(options, io, args));
  },
  check: async () => {
    const { checkCommand, runCheck } = await import("./commands/check.ts");
    return command(checkCommand, (options, io) => runCheck(options, io));
  },
  config: async () => {
    const { configCommand, runConfig } = await import("./commands/config.ts");
    return command(configCommand, (options, io) => runConfig(options, io));
  },
  status: async () => {
    const { statusCommand, runStatus } = await import("./commands/status.ts");
    return command(statusCommand, (options, io) => runStatus(options, io));
  },
  connections: async () => {
    const { connectionsCommand, runConnections } = await import("./commands/connections.ts");
    return command(connectionsCommand, (options, io) => runConnections(options, io));
  },
  kill: async () => {
    const { killCommand, runKill } = await import("./commands/kill.ts");
    return command(killCommand, (options, io) => runKill(options, io));
  },
  drain: async () => {
    const { drainCommand, runDrain } = await import("./commands/drain.ts");
    return command(drainCommand, (options, io) => runDrain(options, io));
  },
  ready: async () => {
    const { readyCommand, runReady } = await import("./commands/drain.ts");
    return command(readyCommand, (options, io) => runReady(options, io));
  },
  down: async () => {
    const { downCommand, runDrain } = await import("./commands/drain.ts");
    return command(downCommand, (options, io) => runDrain(options, io));
  },
  log: async () => {
    const { logCommand, runLog } = await import("./commands/log.ts");
    return command(logCommand, (options, io) => runLog(options, io));
  },
  upgrade: async () => {
    const { upgradeCommand, runUpgrade } = await import("./commands/upgrade.ts");
    return command(upgradeCommand, (options, io) => runUpgrade(options, io));
  },
  stop: async () => {
    const { stopCommand, runStop } = await import("./commands/stop.ts");
    return command(stopCommand, (options, io) => runStop(options, io));
  },
  demo: async () => {
    const { demoCommand, runDemo } = await import("./commands/demo.ts");
    return command(demoCommand, (options, io) => runDemo(options, io));
  },
};

/** The loader of each command, by name. */
export const commands: ReadonlyMap<string, Loader> = new Map(Object.entries(loaders));
