/** The context of live actions of `routes`: a Plan and the running system beside it. */

import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { decodeLink, dumpLinks } from "../../ffi/netlink/link.ts";
import { cgroupId } from "../capture/live/cgroups.ts";
import { type Choosing, chooseIdentity, markBits } from "../capture/live/choose.ts";
import {
  type CurrentState,
  hasRoutes,
  readCurrentState,
  type Selector,
} from "../capture/live/current-state.ts";
import { type DesiredState, partsOf } from "../capture/live/desired-state.ts";
import { interfaceIndex, type Kernel } from "../capture/live/kernel.ts";
import type { Intent, IntentRequest } from "../capture/plan/intent.ts";
import { jointPlan, type ServiceIntent } from "../capture/plan/joint-plan.ts";
import { planNotes } from "../capture/plan/notes.ts";
import type { Plan } from "../capture/plan/plan.ts";
import type { SettingWords } from "../config/setting-words.ts";
import { type StartFacts, startWarnings } from "../diagnose/checks/start.ts";
import { readSysctl } from "../diagnose/snapshot/proc.ts";
import type { MaskedMark } from "../net/mark.ts";
import { printLine } from "../net/printable.ts";
import type { ProcessIo } from "./process-io.ts";

export interface RoutesContext {
  readonly kernel: Kernel;
  readonly plan: Plan;
  readonly parts: DesiredState;
  readonly live: CurrentState;
  readonly question: Selector;
  /** The marks that tell our own packets from those that are captured. */
  readonly guards: readonly MaskedMark[];
  /** Reads why packets miss the rules, and which the rules divert by accident; a line each. */
  readonly cautions: (spell: SettingWords) => readonly string[];
  /** Neither waits for a reader: work goes on whether or not the output is read. */
  readonly say: (line: string) => Promise<void>;
  /** About what the kernel or the system lacks; on standard error. */
  readonly warn: (line: string) => Promise<void>;
}

/**
 * Reads the system, for what is captured for one service or several. A control group that a guard
 * names has to be there, unless `groupsMayBeGone`: to be removed, a table need not be described to
 * the letter.
 * @throws NetlinkError, SyscallError
 */
export function loadContext(
  kernel: Kernel,
  intents: readonly ServiceIntent[],
  io: ProcessIo,
  groupsMayBeGone = false,
): RoutesContext {
  const plan = jointPlan(intents);
  const all = intents.map(({ intent }) => intent);
  const groupId = groupsMayBeGone ? undefined : cgroupId;
  const parts = partsOf(plan, (name) => interfaceIndex(kernel, name), groupId);
  const tables = [...new Set(all.map(({ table }) => table))];
  const question = { tables, tag: all[0]?.tag, name: plan.firewall.name };
  const live = readCurrentState(kernel, question);
  return {
    kernel,
    plan,
    parts,
    live,
    question,
    guards: all.flatMap(({ guards }) => guards.mark ?? []),
    cautions: (spell) => [
      ...new Set(all.flatMap((intent) => cautionsOf(kernel, intent, live, spell))),
      ...planNotes(plan),
    ],
    say: async (line) => void io.stdout.write(`${printLine(line)}\n`),
    warn: async (line) => void io.stderr.write(`tproxy: ${printLine(line)}\n`),
  };
}

function cautionsOf(
  kernel: Kernel,
  intent: Intent,
  { rules }: CurrentState,
  spell: SettingWords,
): string[] {
  const facts: StartFacts = {
    links: kernel.route.dump(dumpLinks(), decodeLink),
    rules: rules.filter(({ protocol }) => intent.tag === undefined || protocol !== intent.tag),
    hasRoutes: (family, table) => hasRoutes(kernel, family === 4 ? AF_INET : AF_INET6, table),
    sysctl: readSysctl,
  };
  return startWarnings(intent, facts, spell);
}

/** The part of a request that is of the set-up, and not of what it captures. */
export type IdentityRequest = Pick<IntentRequest, "tableName" | "mark" | "table" | "priority">;

/** A request that leaves nothing about the set-up's identity open. */
export interface Identified<Request extends IdentityRequest = IdentityRequest> {
  readonly request: Request;
  /** Bits of marks that other set-ups give packets: no socket of ours may have them. */
  readonly takenBits: number;
}

/**
 * Fills in the name, mark, table and priority that a request leaves open, as `chooseIdentity` does;
 * `intent` is what the request comes to with the defaults. @throws NetlinkError, SyscallError
 */
export function identify<Request extends IdentityRequest>(
  kernel: Kernel,
  request: Request,
  intent: Intent,
  kind: Choosing["kind"],
): Identified<Request> {
  const { table, tag, tableName: name } = intent;
  const live = readCurrentState(kernel, { tables: [table], tag, name });
  const isFreeTable = (number: number) =>
    ![AF_INET, AF_INET6].some((family) => hasRoutes(kernel, family, number, tag));
  const chosen = chooseIdentity({ intent, request, live, kind, isFreeTable });
  const { tableName, ...routing } = chosen;
  return {
    // NAT needs neither a mark nor a route.
    request: { ...request, tableName, ...(intent.redirect ? {} : routing) },
    takenBits: markBits(live, tableName),
  };
}
