/** `tproxy routes --apply`, `--check`, `--remove`, `--confirm`: the Plan in the running system. */

import { type Applied, applyParts } from "../capture/live/apply.ts";
import { UnmarkedCapture } from "../capture/live/closed.ts";
import { confirm, pendingSetups } from "../capture/live/confirm.ts";
import { type HeldTable, heldTable, isOurs } from "../capture/live/conflicts.ts";
import { compare } from "../capture/live/differences.ts";
import { type Kernel, openKernel } from "../capture/live/kernel.ts";
import { leftTables } from "../capture/live/left-tables.ts";
import { exclusively } from "../capture/live/lock.ts";
import { removeParts } from "../capture/live/remove.ts";
import type { Setup } from "../capture/live/setups.ts";
import { restoreSysctls } from "../capture/live/sysctls.ts";
import { holderOf, holderText } from "../capture/live/table-owner.ts";
import { type Intent, type IntentRequest, parseIntent } from "../capture/plan/intent.ts";
import { single } from "../capture/plan/joint-plan.ts";
import { conflictsOf, conflictText, explained, sysctlHint } from "../control/apply-rules.ts";
import { KernelSettings } from "../control/kernel-settings.ts";
import { checkPrivileges } from "../control/privileges.ts";
import type { ProcessIo } from "../control/process-io.ts";
import { identify, loadContext, type RoutesContext } from "../control/routes-context.ts";
import { ruleNeeds } from "../diagnose/checks/privileges.ts";
import { CommandError, exitStatus, UsageError } from "../errors.ts";
import { parseCidr } from "../net/cidr.ts";
import { printJson } from "../net/printable.ts";
import type { RoutesOptions } from "./commands/routes.ts";
import { toRequest } from "./options/capture.ts";
import { checkModifiers } from "./options/rules.ts";
import { holdOn } from "./rules-hold.ts";
import { flagSetting } from "./words/flag-setting.ts";
import { planLine } from "./words/plan.ts";

/** Runs a live action and returns the exit status. @throws UsageError, CommandError */
export async function runRules(options: RoutesOptions, io: ProcessIo): Promise<number> {
  const action = actionOf(options);
  checkModifiers(options, action);
  const request = toRequest(options, (line) => void io.stderr.write(`tproxy: ${line}\n`));
  const intent = liveIntent(request);
  checkPrivileges(ruleNeeds(`${action} routes`));
  const kernel = await explained(action, flagSetting, openKernel);
  try {
    return await explained(action, flagSetting, async () => {
      switch (action) {
        case "confirm":
          return runConfirm(kernel, request.tableName, io);
        case "check":
          return runCheck(situationOf(kernel, request, intent, io), options.json, io);
        case "remove":
          return runRemove(kernel, request, intent, io);
        case "apply":
          return runApply(kernel, request, intent, options, io);
      }
    });
  } finally {
    kernel.close();
  }
}

/** Loads the current state and the desired one; `intent` is the request's. */
function situationOf(
  kernel: Kernel,
  request: IntentRequest,
  intent: Intent,
  io: ProcessIo,
): RoutesContext {
  const identified = identify(kernel, request, intent, "named");
  return loadContext(kernel, single(liveIntent(identified.request)), io);
}

/**
 * The same for a removal. A user who names a set-up need not repeat what it captures, and without
 * its firewall table nothing shows its families: so both are removed, unless one is named.
 */
function removalOf(
  kernel: Kernel,
  request: IntentRequest,
  intent: Intent,
  io: ProcessIo,
): RoutesContext {
  const identified = identify(kernel, request, intent, "named");
  const { families = [4, 6] } = request;
  return loadContext(kernel, single({ ...liveIntent(identified.request), families }), io, true);
}

type Action = "apply" | "check" | "remove" | "confirm";

function actionOf(options: RoutesOptions): Action {
  const all = ["print", "apply", "check", "remove", "confirm"] as const;
  const given = all.filter((name) => options[name]);
  const [action, second] = given;
  if (second !== undefined) {
    throw new UsageError(`--${action} and --${second} exclude each other: give one of them`);
  }
  if (action === undefined || action === "print") throw new Error("no live action");
  return action;
}

/**
 * The plan as for printing, but always with a priority and a tag, which identify what is applied.
 */
function liveIntent(request: IntentRequest): Intent {
  const seed = parseCidr("8.8.8.8");
  const isBare = Object.keys(request).length === 0 && seed.ok;
  const intent = parseIntent(isBare ? { destinations: [seed.value], interfaces: ["lo"] } : request);
  if (!intent.ok) throw new UsageError(planLine(intent.issue));
  return intent.value;
}

async function runApply(
  kernel: Kernel,
  request: IntentRequest,
  intent: Intent,
  options: RoutesOptions,
  io: ProcessIo,
): Promise<number> {
  const done = exclusively(kernel, () => change(situationOf(kernel, request, intent, io), options));
  const { situation, settings, warnings, applied, stays } = done;
  // Before the first await: a signal from here on must find the hold.
  if (applied !== undefined && stays) {
    return holdOn(situation, settings, options, applied, io, warnings);
  }
  for (const line of warnings) await situation.warn(line);
  for (const line of applied?.changes ?? []) await situation.say(line);
  await situation.say(
    applied === undefined ? "nothing to change: everything is as it should be" : "applied",
  );
  return exitStatus.success;
}

interface Changed {
  readonly situation: RoutesContext;
  readonly settings: KernelSettings;
  readonly warnings: readonly string[];
  /** Undefined if nothing had to change. */
  readonly applied: Applied | undefined;
  /** Whether this process has to stay to hold it. */
  readonly stays: boolean;
}

/** Applies the Plan to the system. @throws CommandError for a conflict with other programs */
function change(situation: RoutesContext, options: RoutesOptions): Changed {
  const { plan, parts, live, question } = situation;
  const conflicts = conflictsOf(situation, flagSetting);
  if (conflicts.length > 0 && !options.force) {
    throw new CommandError(`${conflictText(conflicts)}; or go on with --force`);
  }
  const warnings = [
    ...conflicts.map((each) => `going on despite this: ${each}`),
    ...situation.cautions(flagSetting),
  ];
  const isInForce = compare(parts, live, question.tag).length === 0;
  const isTrial = options.rollbackAfter !== undefined && (!isInForce || options.hold);
  const stays = isTrial || options.hold;
  if (isTrial) refuseReplacing(situation);
  const settings = new KernelSettings(situation);
  const wrong = settings.wrong();
  if (isInForce && !options.hold && (wrong.length === 0 || !plan.setsSysctls)) {
    return { situation, settings, warnings, applied: undefined, stays };
  }
  const sysctls = settings.set();
  const applied = applyOrRestore(situation, options, settings);
  const hints = plan.setsSysctls ? [] : wrong.map((each) => `  ${sysctlHint(each, flagSetting)}`);
  const changes = [...sysctls, ...applied.changes, ...hints];
  return { situation, settings, warnings, applied: { ...applied, changes }, stays };
}

/** A trial does not replace a set-up, since the old one could not be restored. */
function refuseReplacing({ live }: RoutesContext): void {
  if (live.firewall?.chains.some(({ rules }) => rules.length > 0) !== true) return;
  throw new CommandError(
    "Cannot apply with --rollback-after: another set-up of tproxy is in place, and could not be " +
      'restored afterwards: remove it first with "tproxy routes --remove"',
  );
}

function applyOrRestore(
  situation: RoutesContext,
  options: RoutesOptions,
  settings: KernelSettings,
): Applied {
  const { kernel, parts, live, question } = situation;
  const { hold, onExit, rollbackAfter } = options;
  try {
    return applyParts(kernel, parts, live, {
      tag: question.tag,
      owned: hold || rollbackAfter !== undefined,
      closed: onExit === "closed",
      pending: rollbackAfter !== undefined,
    });
  } catch (error) {
    settings.undo();
    if (!(error instanceof UnmarkedCapture)) throw error;
    throw new CommandError(
      "Cannot apply with --on-exit closed: redirected packets have no mark to match; leave out " +
        "--redirect or --on-exit closed",
    );
  }
}

async function runCheck(situation: RoutesContext, json: boolean, io: ProcessIo): Promise<number> {
  const { parts, live, plan, question } = situation;
  const sysctls = plan.setsSysctls ? new KernelSettings(situation).wrong() : [];
  const differences = [
    ...compare(parts, live, question.tag),
    ...sysctls.map(({ name, value }) => ({
      kind: "missing" as const,
      part: "sysctl",
      what: `sysctl ${name}=${value}`,
    })),
  ];
  const { owner } = live.firewall?.table ?? {};
  const setups = [...live.tables, ...live.others.flatMap(({ tables }) => tables)];
  for (const { name } of leftTables(setups)) {
    await situation.warn(
      `a process has left the firewall table inet ${name} (--on-exit): "tproxy routes --remove" ` +
        "removes it",
    );
  }
  if (json) {
    const holder = owner === undefined ? {} : { pid: holderOf(owner)?.pid ?? null };
    const ok = differences.length === 0;
    const result = { ok, heldBy: owner ?? null, ...holder, differences };
    void io.stdout.write(`${printJson(result)}\n`);
  } else {
    for (const { kind, what } of differences) {
      await situation.say(`${kind === "missing" ? "-" : "+"} ${what}`);
    }
    const held = owner === undefined ? "" : `, held by ${holderText(owner)}`;
    await situation.say(
      differences.length === 0
        ? `as it should be${held}`
        : `${differences.length} not as it should be (- missing, + too much)${held}`,
    );
  }
  return differences.length === 0 ? exitStatus.success : exitStatus.failure;
}

async function runRemove(
  kernel: Kernel,
  request: IntentRequest,
  intent: Intent,
  io: ProcessIo,
): Promise<number> {
  // Without options about the capture: removes everything that this program has ever applied.
  const everything = Object.keys(request).length === 0;
  const { situation, removed, sysctls } = exclusively(kernel, () => {
    const situation = removalOf(kernel, request, intent, io);
    const { parts, live, question } = situation;
    const held = heldTable(live);
    if (held !== undefined && !everything) throw new CommandError(heldText(held));
    const removed = removeParts(kernel, parts, live, { tag: question.tag, everything });
    const left = new Set(removed.stays.map(({ name }) => name));
    const isGone = (by: string) => (everything ? !left.has(by) : by === question.name);
    const sysctls = restoreSysctls(kernel, isGone);
    return { situation, removed, sysctls };
  });
  const { live, question, say, warn } = situation;
  const changes = [...removed.changes, ...sysctls];
  for (const line of changes) await say(line);
  const held = everything
    ? heldTable({ tables: removed.stays.flatMap((each) => each.tables) })
    : undefined;
  if (changes.length > 0) await say("removed");
  else if (held === undefined) await say("nothing to remove");
  if (removed.foreign && live.firewall !== undefined && !isOurs(live.firewall)) {
    await warn(`the firewall table inet ${question.name} is not tproxy's, and was left alone`);
  }
  for (const setup of removed.stays) {
    if (setup.tables.length > 0) continue;
    if (everything || setup.name === question.name) await warn(chainText(setup));
  }
  if (removed.left.length > 0) await warn(leftText(removed.left));
  if (held !== undefined) throw new CommandError(heldText(held));
  return exitStatus.success;
}

function heldText({ name, owner }: HeldTable): string {
  return (
    `Cannot remove the firewall table inet ${name}: ${holderText(owner)} holds it: end that ` +
    "process, which takes everything back"
  );
}

function leftText(left: readonly string[]): string {
  return (
    `no set-up that is in place needs ${left.join(" and ")}: to remove them, give their --mark, ` +
    '--table and --priority, or "tproxy routes --remove" alone, which removes all set-ups'
  );
}

function chainText({ name }: Setup): string {
  return (
    `the iptables chain ${name} was left alone, with its ip rules and routes: the script that ` +
    "made it takes it back, printed with --undo"
  );
}

async function runConfirm(
  kernel: Kernel,
  tableName: string | undefined,
  io: ProcessIo,
): Promise<number> {
  const waiting = pendingSetups(kernel);
  const [first, second] = tableName === undefined ? waiting : [tableName];
  if (second !== undefined) {
    throw new CommandError(
      `Several set-ups wait for confirmation, ${waiting.join(" and ")}: name one by --table-name`,
    );
  }
  switch (first === undefined ? "nothing" : await confirm(kernel, first)) {
    case "confirmed":
      await io.stdout.write("confirmed\n");
      return exitStatus.success;
    case "nothing":
      throw new CommandError(
        "No set-up waits for confirmation here: it was confirmed, or has been removed",
      );
    case "lost":
      throw new CommandError("Too late: the set-up has been removed");
  }
}
