/** `tproxy explain forward …`: whether the kernel could carry a service by itself, and why not. */

import { optionName } from "@optique/core/message";
import { command } from "@optique/core/primitives";
import { checkSettings } from "../../config/check.ts";
import { complete, type Service } from "../../config/service.ts";
import {
  carriedQuestions,
  knownUpstreams,
  questionTitle,
} from "../../control/kernel-path/questions.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { captureRequest } from "../../control/server/captures.ts";
import { coreCount } from "../../control/threads.ts";
import { judgeCarried } from "../../diagnose/checks/carried.ts";
import { failure, unknown } from "../../diagnose/checks/finding.ts";
import { conclusion, hasFailure, renderSections, type Section } from "../../diagnose/report.ts";
import { gatherCarried } from "../../diagnose/snapshot/carried-facts.ts";
import { exitStatus, UsageError } from "../../errors.ts";
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
    brief: prose`Show what stands between a service's clients and its upstreams.`,
    description: prose`Takes the options of ${"tproxy forward"}, and follows a connection of the
      service that the kernel would carry by itself: firewall, translation, route, forwarding, and
      the way back, for each upstream. It changes and sends nothing. The exit status is 1 if
      anything stands in the way. ${optionName("--json")} prints the findings as data.`,
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
  const { names, original } = knownUpstreams(service);
  try {
    const request = captureRequest(service, routes);
    const questions = carriedQuestions(service, request, machine, request.tableName ?? "tproxyd");
    const followed = questions.map((question) => {
      return {
        title: questionTitle(question),
        findings: judgeCarried(gatherCarried(machine, question)),
      };
    });
    return [...followed, ...names.map(unresolved), ...(original ? [relayed] : [])];
  } catch (error) {
    throw inFlags(error);
  }
}

const relayed: Section = {
  title: "The upstream original",
  findings: [
    failure("original", "The kernel translates destinations; for this one it needs the relay."),
  ],
};

function unresolved(name: string): Section {
  const text = `${name} is looked up when the service starts; give an address to follow the way.`;
  return { title: `The upstream ${name}`, findings: [unknown("name", text)] };
}

function asJson(sections: readonly Section[]): string {
  const ok = !hasFailure(sections);
  return `${printJson({ ok, conclusion: conclusion(sections), sections })}\n`;
}
