/** The rules of a command that serves: in force as long as it runs, and taken back by its end. */

import { SyscallError } from "../../ffi/errno.ts";
import type { Mark } from "../../ffi/types.ts";
import { applyParts } from "../capture/live/apply.ts";
import { cgroupId } from "../capture/live/cgroups.ts";
import { type DesiredState, partsOf } from "../capture/live/desired-state.ts";
import { Hold } from "../capture/live/hold.ts";
import { interfaceIndex, openKernel } from "../capture/live/kernel.ts";
import { breakLock, exclusively } from "../capture/live/lock.ts";
import { drainingName } from "../capture/live/names.ts";
import { SysctlError } from "../capture/live/setting-memory.ts";
import { drainPlan } from "../capture/plan/drain.ts";
import type { Intent } from "../capture/plan/intent.ts";
import type { ServiceIntent } from "../capture/plan/joint-plan.ts";
import { CommandError } from "../errors.ts";
import { formatMark } from "../net/mark.ts";
import { conflictsOf, conflictText, explained, sysctlHint } from "./apply-rules.ts";
import { conflictLine } from "./conflict-words.ts";
import { KernelSettings } from "./kernel-settings.ts";
import type { ProcessIo } from "./process-io.ts";
import {
  type Identified,
  type IdentityRequest,
  identify,
  loadContext,
  type RoutesContext,
} from "./routes-context.ts";
import type { CaptureIdentity } from "./upgrade/messages.ts";

/** A set-up that one process hands over to another: the socket that owns its firewall table. */
export interface TakenCapture {
  readonly fd: number;
  readonly identity: CaptureIdentity;
}

/** What is captured, for a set-up that has its name and marks; at least one Intent. */
type Build = (identified: Identified) => readonly ServiceIntent[];

/** What is captured, and where. */
interface CaptureParts {
  readonly intents: readonly ServiceIntent[];
  readonly situation: RoutesContext;
  readonly identified: Identified;
  readonly io: ProcessIo;
  readonly say: (line: string) => void;
  /** Another process has handed it over. */
  readonly isTaken: boolean;
}

/** What holds it. */
interface Held {
  readonly settings: KernelSettings;
  readonly hold: Hold;
  readonly owned: boolean;
  readonly changes: readonly string[];
}

export class HeldCapture {
  /** What is captured at the moment. */
  intents: readonly ServiceIntent[];
  /** What was changed, a line each. */
  readonly changes: readonly string[];
  private readonly situation: RoutesContext;
  private readonly settings: KernelSettings;
  private readonly hold: Hold;
  private readonly io: ProcessIo;
  private readonly identified: Identified;
  /** Whether the kernel ties the firewall table to this process. */
  private readonly owned: boolean;
  private draining: DesiredState;
  private readonly say: (line: string) => void;
  private over = false;

  private constructor(parts: CaptureParts, held: Held) {
    const { intents, situation, io, say } = parts;
    this.intents = intents;
    this.situation = situation;
    this.io = io;
    this.say = say;
    this.identified = parts.identified;
    this.settings = held.settings;
    this.changes = held.changes;
    this.hold = held.hold;
    this.owned = held.owned;
    this.draining = drainingParts(situation, intents);
  }

  /**
   * Puts in what `build` returns, and from then on puts back what others remove, which `say` tells.
   * What the request leaves open of the set-up's name, mark, table and priority is chosen clear of
   * all that is there.
   * The kernel takes the firewall table away with this process, however it ends. `taken` is the
   * set-up of a process that hands over: it is changed to what is wanted in one transaction, under
   * the name and the marks that it has.
   * @throws CommandError where it would get in the way of others, or the kernel refuses
   */
  static async apply(
    request: IdentityRequest,
    build: Build,
    io: ProcessIo,
    say: (line: string) => void,
    taken?: TakenCapture,
  ): Promise<HeldCapture> {
    const kernel = await explained("apply", () => openKernel(taken?.fd));
    const wanted = taken === undefined ? request : identityRequest(taken.identity);
    try {
      return await explained("apply", () =>
        exclusively(kernel, () => {
          const usual = representative(build({ request: wanted, takenBits: 0 }));
          const identified = identify(kernel, wanted, usual, "fresh");
          const intents = build(identified);
          const situation = loadContext(kernel, intents, io);
          if (taken === undefined) refuse(situation);
          const identity = identityLine(usual, representative(intents));
          const isTaken = taken !== undefined;
          return HeldCapture.hold({ intents, situation, identified, io, say, isTaken }, identity);
        }),
      );
    } catch (error) {
      kernel.close();
      throw error;
    }
  }

  private static hold(capture: CaptureParts, identity: readonly string[]): HeldCapture {
    const { situation, say, isTaken } = capture;
    const { kernel, parts, live, question } = situation;
    const settings = new KernelSettings(situation);
    const sysctls = settings.set();
    try {
      const applied = applyParts(kernel, parts, live, { tag: question.tag, owned: true });
      const { owned } = applied;
      if (!owned) say("this kernel has no owned tables: if this process is killed, its rules stay");
      const hold = new Hold({
        ...{ kernel, parts, question, owned, say, conflictLine },
        keepSettings: () => settings.watch(),
        closed: false,
        deadlineMs: undefined,
        staysHeld: true,
        now: () => performance.now(),
      });
      void hold.run().catch((error) => say(`routes are no longer watched: ${error.message}`));
      for (const each of situation.cautions()) say(each);
      for (const each of settings.missed()) say(sysctlHint(each).trim());
      const changes = [...identity, ...sysctls, ...applied.changes];
      return new HeldCapture(capture, { settings, hold, owned, changes });
    } catch (error) {
      // What another process has handed over is its own again.
      if (!isTaken) settings.undo();
      throw error;
    }
  }

  /** How often something that others had removed was put back. */
  get repairs(): number {
    return this.hold.repairs;
  }

  /**
   * Captures what `build` returns instead, in one transaction of the firewall; ip rules and routes
   * are added before it and removed after it. The set-up keeps its name, mark, table and priority.
   * Returns the changes, a line each.
   * @throws CommandError where the kernel refuses; then nothing was changed
   */
  async change(build: Build): Promise<readonly string[]> {
    const { kernel, question } = this.situation;
    return await explained("apply", () =>
      exclusively(kernel, () => {
        const intents = build(this.identified);
        const { parts, live } = loadContext(kernel, intents, this.io);
        const applied = applyParts(kernel, parts, live, { tag: question.tag, owned: this.owned });
        this.hold.adopt(parts);
        this.draining = drainingParts(this.situation, intents);
        this.intents = intents;
        return applied.changes;
      }),
    );
  }

  /**
   * Lets open connections go on, and leaves the rest to the next process: this one's table gets
   * another name, and captures nothing new where what belongs to them can be told.
   */
  drain(): void {
    if (this.over) return;
    try {
      const change = () => {
        this.hold.change(this.draining);
        this.settings.rename(this.draining.firewall.table.name);
      };
      exclusively(this.situation.kernel, change, true);
    } catch (error) {
      if (!(error instanceof SyscallError || error instanceof SysctlError)) throw error;
      this.say(`the capture is not given up before the end: ${error.message}`);
    }
  }

  /** What another process needs to go on with the rules; until `thaw` they are left alone. */
  lend(): TakenCapture {
    this.hold.pause();
    const { tableName, mark, table, priority = 0 } = representative(this.intents);
    const { value, mask } = mark;
    const identity = { tableName, mark: { value, mask }, table, priority };
    return { fd: this.situation.kernel.netfilter.fd, identity };
  }

  /** Looks after the rules again, as they are to be here, whatever the other process has done. */
  thaw(): void {
    if (this.over) return;
    const { kernel } = this.situation;
    try {
      kernel.netfilter.drain();
      breakLock(kernel);
      exclusively(kernel, () => this.putBack(), true);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.say(`the rules may not be as they are to be: ${error.message}`);
    }
    this.hold.resume();
  }

  private putBack(): void {
    const { kernel, question } = this.situation;
    const { parts, live } = loadContext(kernel, this.intents, this.io);
    applyParts(kernel, parts, live, { tag: question.tag, owned: this.owned });
  }

  /** Lets go of the rules: another process has them. */
  abandon(): void {
    if (this.over) return;
    this.over = true;
    this.hold.abandon();
    this.situation.kernel.close();
  }

  /** Takes everything back; a second time it does nothing. */
  release(): void {
    if (this.over) return;
    this.over = true;
    this.hold.signal("SIGTERM");
    this.settings.release();
    this.situation.kernel.close();
  }
}

/** What stays of a set-up while it is left to the connections that are open. */
function drainingParts(
  { kernel, question }: RoutesContext,
  intents: readonly ServiceIntent[],
): DesiredState {
  const plan = drainPlan(intents, drainingName(question.name, kernel.netfilter.portId));
  return partsOf(plan, (name) => interfaceIndex(kernel, name), cgroupId);
}

function identityRequest({ mark, ...rest }: CaptureIdentity): IdentityRequest {
  return { ...rest, mark: { value: mark.value as Mark, mask: mark.mask } };
}

/** One whose name, mark, table and priority are those of all: NAT has the name alone. */
function representative(intents: readonly ServiceIntent[]): Intent {
  const found = intents.find(({ intent }) => !intent.redirect) ?? intents[0];
  if (found === undefined) throw new RangeError("nothing is captured");
  return found.intent;
}

/** What was chosen, where it is not the default or what was asked for. */
function identityLine(usual: Intent, intent: Intent): readonly string[] {
  const [before, chosen] = [identityText(usual), identityText(intent)];
  return before === chosen ? [] : [`chosen, because others use the default ones: ${chosen}`];
}

function identityText({ tableName, redirect, mark, table, priority }: Intent): string {
  const values = redirect ? "" : `, mark ${formatMark(mark)}, table ${table}, priority ${priority}`;
  return `firewall table inet ${tableName}${values}`;
}

function refuse(situation: RoutesContext): void {
  const conflicts = conflictsOf(situation);
  if (conflicts.length > 0) throw new CommandError(conflictText(conflicts));
  if (situation.live.firewall?.chains.some(({ rules }) => rules.length > 0) !== true) return;
  throw new CommandError(
    "Cannot apply: another set-up of tproxy uses the firewall table inet " +
      `${situation.question.name}, and would be removed with ours: give another --table-name or ` +
      'none; remove that set-up with "tproxy routes --remove"; or use it with --routes none',
  );
}
