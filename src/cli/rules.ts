/** `tproxy routes --apply`, `--check`, `--remove`, `--confirm`: the Plan in the running system. */

import { ruleNeeds } from "../diagnose/privileges.ts";
import { parseCidr } from "../net/cidr.ts";
import { type Intent, type IntentRequest, parseIntent } from "../routing/intent.ts";
import { makePlan, type Plan } from "../routing/plan.ts";
import { type Applied, applyParts } from "../rules/apply.ts";
import { UnmarkedCapture } from "../rules/closed.ts";
import { confirm } from "../rules/confirm.ts";
import { isOurs } from "../rules/conflicts.ts";
import { compare, staleRouting } from "../rules/differences.ts";
import { type Kernel, openKernel } from "../rules/kernel.ts";
import { removeParts } from "../rules/remove.ts";
import { restoreSysctls, setSysctls, wrongSysctls } from "../rules/sysctls.ts";
import { conflictsOf, conflictText, explained, sysctlHint } from "./apply-rules.ts";
import { toRequest } from "./capture-options.ts";
import { type Edges, exitStatus } from "./edges.ts";
import { CommandError, UsageError } from "./failure.ts";
import { printJson } from "./printable.ts";
import { checkPrivileges } from "./privileges.ts";
import type { RoutesOptions } from "./routes.ts";
import { checkModifiers } from "./rule-options.ts";
import { holdOn } from "./rules-hold.ts";
import { type Situation, survey } from "./situation.ts";

/** Runs a live action and answers its exit status. @throws UsageError, CommandError */
export async function runRules(options: RoutesOptions, edges: Edges): Promise<number> {
  const action = actionOf(options);
  checkModifiers(options, action);
  const request = toRequest(options, (line) => void edges.stderr.write(`tproxy: ${line}\n`));
  const intent = liveIntent(request);
  checkPrivileges(ruleNeeds(`${action} routes`));
  const kernel = await explained(action, openKernel);
  try {
    return await explained(action, async () => {
      if (action === "confirm") return runConfirm(kernel, makePlan(intent), edges);
      const situation = survey(kernel, intent, edges, action === "remove");
      if (action === "check") return runCheck(situation, options.json, edges);
      // Nothing said about the capture: all that this program has ever put in place.
      const isBare = Object.keys(request).length === 0;
      if (action === "remove") return runRemove(situation, isBare);
      return runApply(situation, options, edges);
    });
  } finally {
    kernel.close();
  }
}

type Action = "apply" | "check" | "remove" | "confirm";

function actionOf(options: RoutesOptions): Action {
  const all = ["print", "apply", "check", "remove", "confirm"] as const;
  const given = all.filter((name) => options[name]);
  const [action, second] = given;
  if (second !== undefined) {
    throw new UsageError(`--${action} and --${second} are two actions: give one of them`);
  }
  if (action === undefined || action === "print") throw new Error("no live action");
  return action;
}

/** As for printing, but always with a priority and a tag: what is applied can be told apart. */
function liveIntent(request: IntentRequest): Intent {
  const seed = parseCidr("8.8.8.8");
  const isBare = Object.keys(request).length === 0 && seed.ok;
  const intent = parseIntent(isBare ? { destinations: [seed.value], interfaces: ["lo"] } : request);
  if (!intent.ok) throw new UsageError(intent.error);
  return intent.value;
}

async function runApply(
  situation: Situation,
  options: RoutesOptions,
  edges: Edges,
): Promise<number> {
  const { plan, parts, live, question, say, warn } = situation;
  const conflicts = conflictsOf(situation);
  if (conflicts.length > 0 && !options.force) {
    throw new CommandError(`${conflictText(conflicts)}; or go on with --force`);
  }
  for (const each of conflicts) await warn(`going on in spite of this: ${each}`);
  for (const each of situation.cautions()) await warn(each);
  const isInForce = compare(parts, live, question.tag).length === 0;
  const isTrial = options.rollbackAfter !== undefined && (!isInForce || options.hold);
  if (isTrial) refuseReplacing(situation);
  const wrong = wrongSysctls(plan.sysctls);
  if (isInForce && !options.hold && (wrong.length === 0 || !plan.setsSysctls)) {
    await say("nothing to change: everything is as it should be");
    return exitStatus.success;
  }
  const sysctls = plan.setsSysctls ? setSysctls(plan.sysctls, question.name) : [];
  const applied = applyOrRestore(situation, options);
  const hints = plan.setsSysctls ? [] : wrong.map(sysctlHint);
  const lines = [...sysctls, ...applied.changes, ...hints];
  // Before anything is awaited: a signal from here on has to find the hold.
  if (isTrial || options.hold)
    return holdOn(situation, options, { ...applied, changes: lines }, edges);
  for (const line of lines) await say(line);
  await say("applied");
  return exitStatus.success;
}

/** What stood there before could not be given back: so it is not replaced for a trial. */
function refuseReplacing({ parts, live, question }: Situation): void {
  const inForce = live.firewall?.chains.some(({ rules }) => rules.length > 0) === true;
  if (!inForce && staleRouting(parts, live, question.tag).length === 0) return;
  throw new CommandError(
    "Cannot apply for a trial: another set-up of tproxy is in place, and could not be given back " +
      'afterwards: take it away first with "tproxy routes --remove"',
  );
}

function applyOrRestore(situation: Situation, options: RoutesOptions): Applied {
  const { kernel, plan, parts, live, question } = situation;
  const { hold, onExit, rollbackAfter } = options;
  try {
    return applyParts(kernel, parts, live, {
      tag: question.tag,
      owned: hold || rollbackAfter !== undefined,
      closed: onExit === "closed",
      pending: rollbackAfter !== undefined,
    });
  } catch (error) {
    if (plan.setsSysctls) restoreSysctls(question.name);
    if (!(error instanceof UnmarkedCapture)) throw error;
    throw new CommandError(
      "Cannot apply with --on-exit closed: what is redirected has no mark to tell it by; leave " +
        "--redirect or --on-exit closed out",
    );
  }
}

async function runCheck(situation: Situation, json: boolean, edges: Edges): Promise<number> {
  const { parts, live, plan, question } = situation;
  const sysctls = plan.setsSysctls ? wrongSysctls(plan.sysctls) : [];
  const differences = [
    ...compare(parts, live, question.tag),
    ...sysctls.map(({ name, value }) => ({
      kind: "missing" as const,
      part: "sysctl",
      what: `sysctl ${name}=${value}`,
    })),
  ];
  const { owner } = live.firewall?.table ?? {};
  if (json) {
    const result = { ok: differences.length === 0, heldBy: owner ?? null, differences };
    void edges.stdout.write(`${printJson(result)}\n`);
  } else {
    for (const { kind, what } of differences) {
      await situation.say(`${kind === "missing" ? "-" : "+"} ${what}`);
    }
    const held = owner === undefined ? "" : `, held by a running process (netlink port ${owner})`;
    await situation.say(
      differences.length === 0
        ? `as it should be${held}`
        : `${differences.length} not as it should be (- missing, + too much)${held}`,
    );
  }
  return differences.length === 0 ? exitStatus.success : exitStatus.failure;
}

async function runRemove(situation: Situation, everything: boolean): Promise<number> {
  const { kernel, parts, live, question, say, warn } = situation;
  const others = everything ? live.others.map(({ table }) => table) : [];
  const owned = [...live.tables, ...others].find(({ owner }) => owner !== undefined);
  if (owned !== undefined) {
    throw new CommandError(
      `Cannot remove the firewall table inet ${owned.name}: a running process holds it (netlink ` +
        `port ${owned.owner}): end that process, which takes everything back`,
    );
  }
  const removed = removeParts(kernel, parts, live, { tag: question.tag, everything });
  for (const line of removed.changes) await say(line);
  const sysctls = restoreSysctls(everything ? undefined : question.name);
  for (const line of sysctls) await say(line);
  const count = removed.changes.length + sysctls.length;
  await say(count === 0 ? "nothing to remove: it is all gone" : "removed");
  if (removed.foreign && live.firewall !== undefined && !isOurs(live.firewall)) {
    await warn(`the firewall table inet ${question.name} is not tproxy's, and was left alone`);
  }
  return exitStatus.success;
}

async function runConfirm(kernel: Kernel, plan: Plan, edges: Edges): Promise<number> {
  switch (await confirm(kernel, plan.firewall.name)) {
    case "confirmed":
      await edges.stdout.write("confirmed\n");
      return exitStatus.success;
    case "nothing":
      throw new CommandError(
        "Nothing waits for confirmation here: it was confirmed, or has been taken back",
      );
    case "lost":
      throw new CommandError("Too late: the set-up has been taken back");
  }
}
