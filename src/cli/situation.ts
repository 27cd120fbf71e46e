/** What the live actions of `routes` work on: a Plan and the running system beside it. */

import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { decodeLink, dumpLinks } from "../../ffi/netlink/link.ts";
import { readSysctl } from "../diagnose/proc.ts";
import { startWarnings } from "../diagnose/start-checks.ts";
import type { MaskedMark } from "../net/mark.ts";
import { printLine } from "../net/printable.ts";
import type { Intent, IntentRequest } from "../routing/intent.ts";
import { planNotes } from "../routing/notes.ts";
import { makePlan, type Plan } from "../routing/plan.ts";
import { cgroupId } from "../rules/cgroups.ts";
import { type Choosing, chooseIdentity, markBits } from "../rules/choose.ts";
import { interfaceIndex, type Kernel } from "../rules/kernel.ts";
import { hasRoutes, type Live, type Question, readLive } from "../rules/live.ts";
import { type Parts, partsOf } from "../rules/parts.ts";
import type { Edges } from "./edges.ts";

export interface Situation {
  readonly kernel: Kernel;
  readonly plan: Plan;
  readonly parts: Parts;
  readonly live: Live;
  readonly question: Question;
  /** The mark by which our own packets are told from those that are captured. */
  readonly guard: MaskedMark | undefined;
  /** What keeps packets from the rules, and what these prevent, a line each: read when called. */
  readonly cautions: () => readonly string[];
  /** Neither waits for a reader: what is to be done is done whoever reads. */
  readonly say: (line: string) => Promise<void>;
  /** About what the kernel or the system lacks; on standard error. */
  readonly warn: (line: string) => Promise<void>;
}

/**
 * Reads the system. A control group that a guard names has to be there, unless `groupsMayBeGone`:
 * to be removed, a table need not be described to the letter.
 * @throws NetlinkError, SyscallError
 */
export function survey(
  kernel: Kernel,
  intent: Intent,
  edges: Edges,
  groupsMayBeGone = false,
): Situation {
  const plan = makePlan(intent);
  const groupId = groupsMayBeGone ? undefined : cgroupId;
  const parts = partsOf(plan, (name) => interfaceIndex(kernel, name), groupId);
  const { table, tag } = intent;
  const question = { tables: [table], tag, name: plan.firewall.name };
  const live = readLive(kernel, question);
  return {
    kernel,
    plan,
    parts,
    live,
    question,
    guard: intent.guards.mark,
    cautions: () => [...cautionsOf(kernel, intent, live), ...planNotes(plan)],
    say: async (line) => void edges.stdout.write(`${printLine(line)}\n`),
    warn: async (line) => void edges.stderr.write(`tproxy: ${printLine(line)}\n`),
  };
}

function cautionsOf(kernel: Kernel, intent: Intent, { rules }: Live): string[] {
  return startWarnings(intent, {
    links: kernel.route.dump(dumpLinks(), decodeLink),
    rules: rules.filter(({ protocol }) => intent.tag === undefined || protocol !== intent.tag),
    hasRoutes: (family, table) => hasRoutes(kernel, family === 4 ? AF_INET : AF_INET6, table),
    sysctl: readSysctl,
  });
}

/** A request that leaves nothing about the set-up's identity open. */
export interface Identified {
  readonly request: IntentRequest;
  /** Bits of marks that other set-ups give packets: no socket of ours may have them. */
  readonly takenBits: number;
}

/**
 * Fills in the name, mark, table and priority that a request leaves open, as `chooseIdentity` does;
 * `intent` is what the request comes to with the defaults. @throws NetlinkError, SyscallError
 */
export function identify(
  kernel: Kernel,
  request: IntentRequest,
  intent: Intent,
  kind: Choosing["kind"],
): Identified {
  const { table, tag, tableName: name } = intent;
  const live = readLive(kernel, { tables: [table], tag, name });
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
