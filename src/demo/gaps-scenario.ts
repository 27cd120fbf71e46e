/** Act 4: with one piece missing it fails, and the kernel's own evidence says where. */

import type { Step } from "../capture/plan/steps.ts";
import { applySteps } from "../capture/plan/steps.ts";
import { renderNft } from "../capture/render/nft.ts";
import { type PathStep, pathSteps } from "../diagnose/probe/path.ts";
import { commandsOf, impatientMs, patientMs } from "./addresses.ts";
import type { Context, Scenario } from "./context.ts";
import { type Attempt, Topology } from "./topology.ts";

/** The text for each step. */
const stepNames: Readonly<Record<PathStep, string>> = {
  arrival: "arrival",
  mark: "mark",
  rule: "ip rule",
  route: "local route",
  socket: "listener",
  answer: "SYN-ACK",
  delivered: "client",
};

export const gapsAct: Scenario = {
  title: "One piece missing",
  intro:
    "The same again, each time with one piece taken away and put back. The client gets no " +
    "answer. Where its packet ended is read from the box's kernel: the rule's counter, route " +
    "look-ups, ip rules, sockets and /proc/net/snmp.",
  play: async (context) => {
    await using scene = await Topology.set(4, context);
    await scene.listen(true);
    for (const kind of ["firewall", "rule", "route"] as const) {
      await playRemoved(context, scene, kind);
    }
    await scene.stopListening();
    await playGap(context, scene, { without: "any listener", expected: "socket", commands: [] });
    await scene.listen(false);
    await playGap(context, scene, {
      without: "IP_TRANSPARENT on the listener",
      expected: "answer",
      commands: [],
    });
    await scene.listen(true);
    const { answered, verdict } = await scene.attempt(patientMs);
    context.report.claim({
      step: "restored",
      text: "With everything back in place the client is answered again.",
      ok: answered.text === "hello world\n",
      evidence: { received: answered.text, ended: verdict.step, path: verdict.evidence },
      because: answered.connected ? [] : [verdict.reason],
    });
  },
};

/** A piece of the Plan: how it is called, where the packet ends without it, its command. */
const pieces = {
  firewall: { without: "the firewall rule", expected: "mark", command: /^nft / },
  rule: { without: "the ip rule", expected: "rule", command: /^ip (-6 )?rule / },
  route: { without: "the local route", expected: "route", command: /^ip (-6 )?route / },
} as const;

/** Takes the pieces of one kind away, plays the gap, and puts them back. */
export async function playRemoved(
  context: Context,
  scene: Topology,
  kind: Step["kind"],
): Promise<void> {
  const { without, expected, command } = pieces[kind];
  const steps = applySteps(scene.plan).filter((step) => step.kind === kind);
  const undo = commandsOf(renderNft(scene.plan, { undo: true }));
  const commands = undo.filter((line) => command.test(line));
  for (const step of steps) scene.perform({ ...step, action: "remove" });
  await playGap(context, scene, { without, expected, commands });
  for (const step of steps) scene.perform(step);
}

interface Gap {
  readonly without: string;
  readonly expected: PathStep;
  readonly commands: readonly string[];
}

async function playGap({ report }: Context, scene: Topology, gap: Gap): Promise<void> {
  const { without, expected, commands } = gap;
  report.commands(commands);
  const { answered, verdict }: Attempt = await scene.attempt(impatientMs);
  const isFound = verdict.step === expected;
  const place = `step ${pathSteps.indexOf(verdict.step) + 1}, the ${stepNames[verdict.step]}`;
  report.claim({
    step: `without-${expected}-v${scene.family}`,
    text: answered.connected
      ? `Without ${without} the client is answered all the same.`
      : `Without ${without} the client gets no answer: its packet ends at ${place}.`,
    ok: !answered.connected && isFound,
    evidence: { ended: verdict.step, reason: verdict.reason, path: verdict.evidence },
    because: [verdict.reason, pathLine(verdict.step), ...(isFound ? [] : verdict.evidence)],
  });
}

/** `arrival ✓  mark ✗  ip rule ·  …`: how far the packet came. */
function pathLine(ended: PathStep): string {
  const end = ended === "delivered" ? pathSteps.length : pathSteps.indexOf(ended);
  return pathSteps
    .map((step, i) => `${stepNames[step]} ${i < end ? "✓" : i === end ? "✗" : "·"}`)
    .join("  ");
}
