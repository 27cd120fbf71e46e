/** The rules of a command that serves: in force as long as it runs, and taken back by its end. */

import { drainPlan } from "../routing/drain.ts";
import type { Intent } from "../routing/intent.ts";
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
  private over = false;

  private constructor(
    situation: Situation,
    changes: readonly string[],
    hold: Hold,
    draining: Parts | undefined,
  ) {
    this.situation = situation;
    this.changes = changes;
    this.hold = hold;
    this.draining = draining;
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
    const wrong = wrongSysctls(plan.sysctls);
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
      const hints = plan.setsSysctls ? [] : wrong.map(sysctlHint);
      return new HeldRoutes(situation, [...sysctls, ...applied.changes, ...hints], hold, draining);
    } catch (error) {
      if (plan.setsSysctls) restoreSysctls(question.name);
      throw error;
    }
  }

  /** Captures nothing new; what belongs to open connections still gets here. */
  drain(): void {
    if (this.over || this.draining === undefined) return;
    this.hold.change(this.draining);
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

function refuse(situation: Situation): void {
  const conflicts = conflictsOf(situation);
  if (conflicts.length > 0) throw new CommandError(conflictText(conflicts));
  if (situation.live.firewall?.chains.some(({ rules }) => rules.length > 0) !== true) return;
  throw new CommandError(
    "Cannot apply: another set-up of tproxy is in place, and would be gone afterwards: take it " +
      'away first with "tproxy routes --remove", or use it with --routes none',
  );
}
