/** The rules of a command that serves: in force as long as it runs, and taken back by its end. */

import { SyscallError } from "../../ffi/errno.ts";
import { readSysctl } from "../diagnose/proc.ts";
import { drainPlan } from "../routing/drain.ts";
import type { Intent } from "../routing/intent.ts";
import type { Sysctl } from "../routing/plan.ts";
import { applyParts } from "../rules/apply.ts";
import { cgroupId } from "../rules/cgroups.ts";
import { Hold } from "../rules/hold.ts";
import { interfaceIndex, openKernel } from "../rules/kernel.ts";
import { type Parts, partsOf } from "../rules/parts.ts";
import { restoreSysctls, setSysctls, wrongSysctls } from "../rules/sysctls.ts";
import { conflictsOf, conflictText, explained, sysctlHint } from "./apply-rules.ts";
import type { Edges } from "./edges.ts";
import { CommandError } from "./failure.ts";
import { type Situation, survey } from "./situation.ts";

export class HeldRoutes {
  /** What was changed, a line each. */
  readonly changes: readonly string[];
  private readonly situation: Situation;
  private readonly hold: Hold;
  private readonly draining: Parts | undefined;
  private readonly say: (line: string) => void;
  private over = false;

  private constructor(
    situation: Situation,
    changes: readonly string[],
    hold: Hold,
    draining: Parts | undefined,
    say: (line: string) => void,
  ) {
    this.situation = situation;
    this.changes = changes;
    this.hold = hold;
    this.draining = draining;
    this.say = say;
  }

  /**
   * Puts in what `intent` needs, and from then on puts back what others remove, which `say` tells.
   * The kernel takes the firewall table away with this process, however it ends.
   * @throws CommandError where it would get in the way of others, or the kernel refuses
   */
  static async apply(
    intent: Intent,
    edges: Edges,
    say: (line: string) => void,
  ): Promise<HeldRoutes> {
    const kernel = await explained("apply", openKernel);
    try {
      return await explained("apply", () => {
        const situation = survey(kernel, intent, edges);
        refuse(situation);
        const drained = drainPlan(intent);
        const indexOf = (name: string) => interfaceIndex(kernel, name);
        const draining = drained && partsOf(drained, indexOf, cgroupId);
        return HeldRoutes.hold(situation, draining, say);
      });
    } catch (error) {
      kernel.close();
      throw error;
    }
  }

  private static hold(
    situation: Situation,
    draining: Parts | undefined,
    say: (line: string) => void,
  ): HeldRoutes {
    const { kernel, plan, parts, live, question } = situation;
    const sysctls = plan.setsSysctls ? setSysctls(plan.sysctls, question.name) : [];
    try {
      const applied = applyParts(kernel, parts, live, { tag: question.tag, owned: true });
      const { owned } = applied;
      if (!owned) say("this kernel has no tables with an owner: killed, its rules would stay");
      const hold = new Hold({
        ...{ kernel, parts, question, owned, say },
        closed: false,
        deadlineMs: undefined,
        staysHeld: true,
        now: () => performance.now(),
      });
      void hold.run().catch((error) => say(`routes are no longer watched: ${error.message}`));
      for (const each of situation.cautions()) say(each);
      const wrong = plan.setsSysctls ? [] : wrongSysctls(plan.sysctls).filter(isNeeded);
      for (const each of wrong) say(sysctlHint(each).trim());
      return new HeldRoutes(situation, [...sysctls, ...applied.changes], hold, draining, say);
    } catch (error) {
      if (plan.setsSysctls) restoreSysctls(question.name);
      throw error;
    }
  }

  /** Captures nothing new; what belongs to open connections still gets here. */
  drain(): void {
    if (this.over || this.draining === undefined) return;
    try {
      this.hold.change(this.draining);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.say(`new connections are captured until the end: ${error.message}`);
    }
  }

  /** Takes everything back; a second time it does nothing. */
  release(): void {
    if (this.over) return;
    this.over = true;
    this.hold.signal("SIGTERM");
    const { kernel, plan, question } = this.situation;
    if (plan.setsSysctls) restoreSysctls(question.name);
    kernel.close();
  }
}

/** Whether accept_local=1 is needed: the kernel looks up sources with the mark (src_valid_mark). */
function isNeeded({ name }: Sysctl): boolean {
  const own = name.replace(/accept_local$/, "src_valid_mark");
  return readSysctl("net.ipv4.conf.all.src_valid_mark") === 1 || readSysctl(own) === 1;
}

function refuse(situation: Situation): void {
  const conflicts = conflictsOf(situation);
  if (conflicts.length > 0) throw new CommandError(conflictText(conflicts));
  if (situation.live.firewall?.chains.some(({ rules }) => rules.length > 0) !== true) return;
  throw new CommandError(
    "Cannot apply: another set-up of tproxy is in place, and would be gone afterwards: take it " +
      'away first with "tproxy routes --remove", or use it with --routes none',
  );
}
