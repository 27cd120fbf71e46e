/** `tproxy run`: serves the services of a configuration file. */

import { object } from "@optique/core/constructs";
import type { InferValue } from "@optique/core/parser";
import { command, constant } from "@optique/core/primitives";
import type { ReadConfiguration } from "../../config/file.ts";
import type { Configuration } from "../../config/service.ts";
import type { Settings } from "../../config/settings.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { ServiceProblem } from "../../control/server/issues.ts";
import { reload } from "../../control/server/reload.ts";
import { Server } from "../../control/server/server.ts";
import { protocolsOf } from "../../control/server/tasks.ts";
import { fileWords } from "../../control/server/words.ts";
import { Notifier } from "../../control/systemd/notifier.ts";
import { Takeover } from "../../control/upgrade/takeover.ts";
import { exitStatus, servedStatus, UsageError } from "../../errors.ts";
import { printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { servedAdminOption } from "../options/admin.ts";
import { given } from "../options/capture.ts";
import { configOption } from "../options/config.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { userOption, wantedUser } from "../options/user.ts";
import { prose } from "../prose.ts";
import { problemLines, readConfigurationFile } from "./check.ts";

const fields = object({
  command: constant("run"),
  ...inGroup("Configuration", { config: configOption }),
  ...inGroup("Process", { user: userOption, admin: servedAdminOption }),
});

/** The command `run` for the argument parser. */
export const runCommand = command("run", fields, {
  usageLine: usageLine("[-c FILE] [OPTIONS]"),
  brief: prose`Serve the services of a configuration file: TCP and UDP, with rules and pools.`,
  description: prose`Reads the configuration that ${"tproxy check"} checks, opens the listeners of
    all its services, installs the rules that they need (${"[routes] install"}), and serves until
    it is stopped. An upstream whose name has no address yet is looked up again and again; its
    service starts without it. The first SIGTERM or SIGINT stops accepting and lets open connections
    end; a second one ends them at once. SIGHUP reads the configuration again and takes it over,
    all of it or nothing; connections of services that stay are not touched. SIGUSR1 prints open
    connections and counters. The exit status is 2 for a configuration with problems: then nothing
    was changed.`,
  footer: examplesFooter([
    ["sudo tproxy run", "the configuration of this host"],
    ["tproxy run -c ./tproxy.toml", "another file"],
    ["tproxy forward :8080 --to 127.0.0.1:80 --print-config | tproxy run -c -", "from options"],
  ]),
});

/** Runs `run` until it is stopped; the exit status. @throws UsageError, CommandError */
export async function runRun(
  { config, user, admin }: InferValue<typeof fields>,
  io: ProcessIo,
): Promise<number> {
  const { problems, configuration } = await readConfigurationFile(config);
  if (configuration === undefined) {
    const lines = problemLines(problems);
    void io.stderr.write(lines);
    await Takeover.refuse(process.env, lines.trimEnd().split("\n"));
    return exitStatus.usage;
  }
  if (!configuration.services.some(({ isEnabled }) => isEnabled)) {
    void io.stderr.write(`tproxy: ${printLine(config)}: no service is enabled: nothing to do\n`);
    // A unit that ends before it is ready has failed, and would be started again and again.
    Notifier.fromEnvironment(process.env, () => {})?.ready("no service is enabled");
    return exitStatus.success;
  }
  const own = given({ user, admin: admin === undefined ? undefined : { socket: admin } });
  const read = async (): Promise<ReadConfiguration> => {
    const again = await readConfigurationFile(config);
    return { ...again, configuration: again.configuration && withOwn(again.configuration, own) };
  };
  return serve(withOwn(configuration, own), config === "-" ? undefined : read, io);
}

/** A configuration with settings of the command line, which win. */
function withOwn<T extends Configuration>(
  configuration: T,
  own: Pick<Settings, "user" | "admin">,
): T {
  const { user, admin, settings } = configuration;
  return {
    ...configuration,
    user: own.user ?? user,
    admin: { ...admin, socket: own.admin?.socket ?? admin.socket },
    settings: { ...settings, ...own, admin: { ...settings.admin, ...own.admin } },
  };
}

/** `read` reads the configuration again; undefined: it cannot be. */
async function serve(
  configuration: Configuration,
  read: (() => Promise<ReadConfiguration>) | undefined,
  io: ProcessIo,
): Promise<number> {
  // Sockets that a later configuration opens may have to be given away as well.
  const hasUdp = configuration.services.some((each) => protocolsOf(each).includes("udp"));
  // From here on a hang-up ends nothing; one that comes before the start is over is not lost.
  const started = Promise.withResolvers<Server>();
  io.onHangup(() => void started.promise.then((server) => reloadBy(server, read)));
  try {
    const user = wantedUser(configuration.user, hasUdp);
    const server = await Server.start(configuration, {
      ...{ io, user, words: fileWords, isNameless: false, read },
    });
    started.resolve(server);
    const { stoppedBy } = await server.finished();
    return servedStatus(stoppedBy);
  } catch (error) {
    const problem =
      error instanceof ServiceProblem ? new UsageError(fileWords.problem(error)) : error;
    // What was begun to be taken over has told it already.
    if (problem instanceof Error) await Takeover.refuse(process.env, [problem.message]);
    throw problem;
  }
}

async function reloadBy(
  server: Server,
  read: (() => Promise<ReadConfiguration>) | undefined,
): Promise<void> {
  if (read !== undefined) await reload(server, read);
  else server.log.warn("reload: a configuration from standard input cannot be read again");
}
