/** `tproxy explain forward …`: which path a service takes, and what is in the kernel's way. */

import { optionName } from "@optique/core/message";
import { command } from "@optique/core/primitives";
import type { IntentRequest } from "../../capture/plan/intent.ts";
import { checkSettings } from "../../config/check.ts";
import { type Obstacle, pathObstacles } from "../../config/kernel-path.ts";
import { complete, type Service } from "../../config/service.ts";
import { familiesOf } from "../../control/kernel-path/describe-service.ts";
import {
  carriedQuestions,
  knownUpstreams,
  questionTitle,
} from "../../control/kernel-path/questions.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { captureRequest } from "../../control/server/captures.ts";
import { isOwnAddress } from "../../control/server/capturing.ts";
import { coreCount } from "../../control/threads.ts";
import { judgeCarried } from "../../diagnose/checks/carried.ts";
import { type Finding, failure, ok, unknown } from "../../diagnose/checks/finding.ts";
import { conclusion, hasFailure, renderSections, type Section } from "../../diagnose/report.ts";
import { gatherCarried } from "../../diagnose/snapshot/carried-facts.ts";
import type { HostSnapshot } from "../../diagnose/snapshot/host.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import type { Address } from "../../net/address.ts";
import { printJson } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { type ForwardOptions, forwardFields } from "../options/forward.ts";
import { settingsOf } from "../options/forward-settings.ts";
import { usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";
import { machineOrError } from "../read-host.ts";
import { withWholeRepairs } from "../whole-repairs.ts";
import { inFlags } from "../words/service.ts";
import { issueLine } from "../words/settings.ts";

/** The command `explain forward` for the argument parser. */
export const explainForwardCommand = command(
  "explain",
  command("forward", forwardFields, {
    usageLine: usageLine("[OPTIONS] --to HOST:PORT [ADDR]:PORT..."),
    brief: prose`Show which path a service takes, and what is in the way.`,
    description: prose`Takes the options of ${"tproxy forward"}. It tells whether the relay or the
      kernel carries the service, and why. Then it follows a connection that the kernel would carry
      by itself: firewall, translation, route, forwarding, and the way back, for each upstream. It
      changes and sends nothing. The exit status is 1 if anything stands in the way.
      ${optionName("--json")} prints the findings as data.`,
    footer: examplesFooter([
      [
        "sudo tproxy explain forward :80 --to 192.0.2.10:8080 --in eth0",
        "the way to that upstream, and back",
      ],
    ]),
  }),
);

/** Runs `explain forward`; the exit status. @throws UsageError, CommandError */
export async function runExplainForward(
  options: ForwardOptions,
  io: ProcessIo,
  args: readonly string[],
): Promise<number> {
  const settings = settingsOf(options);
  const [issue] = checkSettings(settings, { cores: coreCount() });
  if (issue !== undefined) throw new UsageError(issueLine(issue));
  const { services, routes } = complete(settings);
  const [service] = services as [Service];
  const sections = wordedSections(service, routes).map(({ title, findings }) => {
    return { title, findings: withWholeRepairs(findings, args) };
  });
  await io.stdout.write(options.json ? asJson(sections) : renderSections(sections, io.stdout));
  return hasFailure(sections) ? exitStatus.failure : exitStatus.success;
}

/** @throws UsageError for a capture that contradicts itself */
function wordedSections(service: Service, routes: Parameters<typeof captureRequest>[1]): Section[] {
  const machine = machineOrError();
  const { names } = knownUpstreams(service);
  try {
    const request = captureRequest(service, routes);
    const obstacles = obstaclesOf(service, request, routes, machine);
    const path = { title: "Data path", findings: pathFindings(service, obstacles) };
    // What the relay carries goes another way than what follows.
    const isRelayed = service.path.kind === "auto" && obstacles.length > 0;
    if (isRelayed || obstacles.some(({ setting }) => setting !== undefined)) return [path];
    const questions = carriedQuestions(service, request, machine, request.tableName ?? "tproxyd");
    const followed = questions.map((question) => {
      return {
        title: questionTitle(question),
        findings: judgeCarried(gatherCarried(machine, question)),
      };
    });
    return [path, ...followed, ...names.map(unresolved)];
  } catch (error) {
    throw inFlags(error);
  }
}

/** What keeps the service from the kernel path, as far as names have not to be looked up. */
function obstaclesOf(
  service: Service,
  request: IntentRequest,
  { install, sysctl = false }: Parameters<typeof captureRequest>[1],
  { sysctl: read }: HostSnapshot,
): Obstacle[] {
  const { known, names } = knownUpstreams(service);
  const settings = { 4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding" } as const;
  const facts = {
    // Only who asks for the kernel path has to have its rules installed.
    installs: install === "auto" || service.path.kind !== "kernel",
    families: familiesOf(service, request),
    upstreams: known.map(({ address }) => address),
    forwards: ([4, 6] as const).filter((family) => sysctl || read(settings[family]) === 1),
    isOwn: ({ bytes }: Address) => isOwnAddress(bytes),
  };
  const isOfNames = ({ setting }: Obstacle) => setting === "family" && names.length > 0;
  return pathObstacles(service, facts).filter((each) => !isOfNames(each));
}

/** Which path the service takes, and why. */
function pathFindings({ path }: Service, obstacles: readonly Obstacle[]): Finding[] {
  const reasons = obstacles.map(({ setting, why }) =>
    setting === undefined ? why : `--${setting}: ${why}`,
  );
  const listed = reasons.join("; ");
  if (path.kind === "kernel") {
    if (reasons.length === 0) return [ok("path", "The kernel carries it, as --path kernel asks.")];
    return reasons.map((each) => failure("path", `--path kernel cannot carry it: ${each}.`));
  }
  if (path.kind === "auto") {
    if (reasons.length === 0)
      return [ok("path", "The kernel carries it: nothing needs the relay.")];
    return [ok("path", `The relay carries it, not the kernel: ${listed}.`)];
  }
  const could = reasons.length === 0 ? "could, with --path kernel" : `could not: ${listed}`;
  return [ok("path", `The relay carries it (--path relay); the kernel ${could}.`)];
}

function unresolved(name: string): Section {
  const text = `${name} is looked up when the service starts; give an address to follow the way.`;
  return { title: `The upstream ${name}`, findings: [unknown("name", text)] };
}

function asJson(sections: readonly Section[]): string {
  const ok = !hasFailure(sections);
  return `${printJson({ ok, conclusion: conclusion(sections), sections })}\n`;
}
