/** `tproxy forward`: carries connections to backends that see the client's own address. */

import { makePlan } from "../../capture/plan/plan.ts";
import { renderNft } from "../../capture/render/nft.ts";
import { checkSettings } from "../../config/check.ts";
import { type Configuration, complete, type Service } from "../../config/service.ts";
import type { Settings } from "../../config/settings.ts";
import { bindAddress } from "../../control/endpoints.ts";
import { pathOf } from "../../control/kernel-path/choose-path.ts";
import { printedPlan } from "../../control/kernel-path/path-intent.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { namedBackends } from "../../control/server/backends.ts";
import { captureRequest, intentOf, socketMark } from "../../control/server/captures.ts";
import { isOwnAddress } from "../../control/server/capturing.ts";
import { nothingToCapture } from "../../control/server/issues.ts";
import { Server } from "../../control/server/server.ts";
import { protocolsOf } from "../../control/server/tasks.ts";
import { coreCount } from "../../control/threads.ts";
import { UpstreamList } from "../../control/upstreams.ts";
import { exitStatus, servedStatus, UsageError } from "../../errors.ts";
import type { ForwardOptions } from "../options/forward.ts";
import { settingsOf, withoutStdin } from "../options/forward-settings.ts";
import { wantedUser } from "../options/user.ts";
import { flagWords, inFlags } from "../words/service.ts";
import { issueLine } from "../words/settings.ts";

/** What goes with rules that tell our own connections by their mark. */
function markHint(mark = 0): string {
  const text = `0x${mark.toString(16)}`;
  return `tproxy: with these rules and --routes none, give --socket-mark ${text} as well\n`;
}

/** What the heading of a printed script says of it. */
const printed = {
  command: "tproxy forward --routes print",
  undo: "`tproxy routes --remove` removes it.",
};

/** Runs `forward` until it is stopped; the exit status. @throws UsageError, CommandError */
export async function runForward(options: ForwardOptions, io: ProcessIo): Promise<number> {
  const settings = settingsOf(options);
  refuse(options, settings);
  if (options.printConfig) return printConfiguration(settings, io);
  const configuration = complete(settings);
  try {
    const isPrinted = options.routes === "print";
    return await (isPrinted ? printRoutes(configuration, io) : serve(configuration, io));
  } catch (error) {
    throw inFlags(error);
  }
}

async function serve(configuration: Configuration, io: ProcessIo): Promise<number> {
  const hasUdp = configuration.services.some((each) => protocolsOf(each).includes("udp"));
  const user = wantedUser(configuration.user, hasUdp);
  const settings = { io, words: flagWords, user, isNameless: true };
  const server = await Server.start(configuration, settings);
  const { stoppedBy } = await server.finished();
  return servedStatus(stoppedBy);
}

/** @throws ServiceProblem */
async function printRoutes(configuration: Configuration, io: ProcessIo): Promise<number> {
  const { services, routes } = configuration;
  const [service] = services as [Service];
  const say = (line: string) => void io.stderr.write(`tproxy: ${line}\n`);
  const request = captureRequest(service, routes, say);
  if (service.path.kind !== "relay") {
    const to = service.route.pool.upstreams.map((each) => each.to);
    const upstreams = await UpstreamList.resolve(to, service.dial.mark);
    upstreams.close();
    const candidate = { service, request, upstreams };
    if (pathOf(candidate, configuration)?.length === 0) {
      const script = renderNft(printedPlan(candidate, configuration), { origin: printed });
      await io.stdout.write(script);
      return exitStatus.success;
    }
  }
  const intent = intentOf(service, request, {
    protocols: protocolsOf(service),
    backends: namedBackends(service.route.pool),
    listeners: service.listen.map(({ endpoint }) => bindAddress(endpoint)),
    isOwn: isOwnAddress,
  });
  if (intent === undefined) throw nothingToCapture(service);
  const mark = socketMark(service, [intent]);
  await io.stdout.write(renderNft(makePlan(intent), { origin: printed }));
  if (mark !== service.dial.mark) await io.stderr.write(markHint(mark));
  return exitStatus.success;
}

/** Prints the configuration file that does the same. Lists from standard input stand in it. */
async function printConfiguration(settings: Settings, io: ProcessIo): Promise<number> {
  const { writeToml } = await import("../../config/write.ts");
  await io.stdout.write(writeToml(withoutStdin(settings)));
  return exitStatus.success;
}

/** @throws UsageError for options that contradict each other */
function refuse(options: ForwardOptions, settings: Settings): void {
  const [issue] = checkSettings(settings, { cores: coreCount() });
  if (issue !== undefined) throw new UsageError(issueLine(issue));
  if (options.routes !== "print") return;
  if (options.printConfig) {
    throw new UsageError("--print-config and --routes print exclude each other: give one of them");
  }
  if (options.addresses.some(({ ports }) => ports.from === 0)) {
    throw new UsageError('--routes print excludes port "0": give the port to listen on');
  }
}
