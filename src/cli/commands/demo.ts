/** `tproxy demo`: the whole story in network namespaces of its own. */

import { object } from "@optique/core/constructs";
import { commandLine } from "@optique/core/message";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag } from "@optique/core/primitives";
import { EPERM, SyscallError } from "../../../ffi/errno.ts";
import { NetworkNamespace } from "../../../ffi/netns.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { bindAct } from "../../demo/bind-scenario.ts";
import { type Context, type Means, ownMeans, type Scenario } from "../../demo/context.ts";
import { curlAct } from "../../demo/curl-scenario.ts";
import { gapsAct } from "../../demo/gaps-scenario.ts";
import { ipv6Act } from "../../demo/ipv6-scenario.ts";
import { reachAct } from "../../demo/reach-scenario.ts";
import { JsonReport, TextReport } from "../../demo/report.ts";
import { endWithParent, isRestarted, restartAsRoot } from "../../demo/restart.ts";
import { Interrupted } from "../../demo/wait.ts";
import { stopGraceMs } from "../../engine/limits.ts";
import { CommandError, cutOffStatus, exitStatus, type StopReason } from "../../errors.ts";
import { examplesFooter } from "../examples.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("demo"),
  ...inGroup("Options", {
    json: withDefault(flag("--json", { description: prose`Print one JSON object a line.` }), false),
  }),
});

/** The command `demo` for the argument parser. */
export const demoCommand = command("demo", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Show everything in temporary namespaces; nothing on this host is changed.`,
  description: prose`Plays five acts in network namespaces that end with it. The first binds an
    address that this host does not own. The second runs the article's curl. In the third, a client
    elsewhere reaches an address that nobody has. The fourth takes one piece away at a time, and
    shows where the kernel then drops the packet. The fifth repeats it with IPv6. An ordinary user
    needs ${commandLine("unshare")} and a kernel that lets users make namespaces. The exit status is
    1 if a claim is wrong.`,
  footer: examplesFooter([
    ["tproxy demo", "the five acts, for people"],
    ["tproxy demo --json", "one object a claim, for programs"],
  ]),
});

export type DemoOptions = InferValue<typeof fields>;

const acts: readonly Scenario[] = [bindAct, curlAct, reachAct, gapsAct, ipv6Act];

/**
 * Plays the acts; the exit status: 1 if a claim is not true.
 * @throws CommandError where namespaces cannot be had
 */
export async function runDemo(
  options: DemoOptions,
  io: ProcessIo,
  means: Means = ownMeans,
): Promise<number> {
  if (isRestarted()) endWithParent(io);
  if (!canMakeNamespaces()) return restartAsRoot(io);
  const stop = new AbortController();
  let stoppedBy: StopReason | undefined;
  io.onStop((reason) => {
    stoppedBy = reason;
    stop.abort();
    setTimeout(() => io.exit(cutOffStatus(reason)), stopGraceMs);
  });
  const { stdout } = io;
  const report = options.json ? new JsonReport(stdout) : new TextReport(stdout);
  const setting = { workerEntry: io.workerEntry, signal: stop.signal };
  try {
    const failed = await playAll({ report, setting, means });
    return failed === 0 ? exitStatus.success : exitStatus.failure;
  } catch (error) {
    if (!(error instanceof Interrupted) || stoppedBy === undefined) throw error;
    report.interrupted();
    if (stoppedBy !== "EPIPE") await report.flush();
    return cutOffStatus(stoppedBy);
  }
}

/** Plays every act, whatever became of those before; how many claims are not true. */
async function playAll(context: Context): Promise<number> {
  const { report } = context;
  const played: { act: number; title: string; ok: boolean }[] = [];
  const skipped: string[] = [];
  report.begin();
  for (const [index, act] of acts.entries()) {
    const { title } = act;
    const before = report.failed;
    report.act(index + 1, title, act.intro);
    const obstacle = act.obstacle?.();
    if (obstacle === undefined) await play(act, context);
    else {
      report.skip(obstacle);
      skipped.push(`${title}: ${obstacle}`);
    }
    played.push({ act: index + 1, title, ok: report.failed === before });
    await report.flush();
  }
  report.end({ acts: played, skipped });
  await report.flush();
  return report.failed;
}

/** Plays one act; what the kernel refuses it is a claim that is not true. */
async function play(act: Scenario, context: Context): Promise<void> {
  try {
    await act.play(context);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const { call, code, message } = error;
    const evidence = { call, error: code };
    context.report.claim({
      step: "stage",
      text: `The stage is set. ${message}`,
      ok: false,
      evidence,
    });
  }
}

/**
 * Whether network namespaces can be made, as they can with CAP_SYS_ADMIN.
 * @throws CommandError for other reasons than that, and if not even a user namespace has helped
 */
function canMakeNamespaces(): boolean {
  try {
    NetworkNamespace.create().close();
    return true;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (Number(error.errno) === EPERM && !isRestarted()) return false;
    throw new CommandError(`Cannot make a network namespace: ${error.message}`);
  }
}
