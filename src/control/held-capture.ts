/** The rules of a command that serves: in force while it runs, and removed at its end. */

import { SyscallError } from "../../ffi/errno.ts";
import type { Message } from "../../ffi/netlink/wire.ts";
import type { Mark } from "../../ffi/types.ts";
import { applyParts } from "../capture/live/apply.ts";
import { cgroupId } from "../capture/live/cgroups.ts";
import { type DesiredState, partsOf } from "../capture/live/desired-state.ts";
import { type HeldPart, Hold } from "../capture/live/hold.ts";
import { interfaceIndex, type Kernel, openKernel } from "../capture/live/kernel.ts";
import { breakLock, exclusively } from "../capture/live/lock.ts";
import { drainingName } from "../capture/live/names.ts";
import { SysctlError } from "../capture/live/setting-memory.ts";
import { drainPlan } from "../capture/plan/drain.ts";
import type { Intent } from "../capture/plan/intent.ts";
import type { ServiceIntent } from "../capture/plan/joint-plan.ts";
import type { SettingWords } from "../config/setting-words.ts";
import { CommandError } from "../errors.ts";
import { formatMark } from "../net/mark.ts";
import { conflictLine, conflictsOf, conflictText, explained, sysctlHint } from "./apply-rules.ts";
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

/** What was there before. */
interface Before {
  readonly taken?: TakenCapture | undefined;
  /** Rules that go in the same transaction. */
  readonly retired?: { readonly messages: (kernel: Kernel) => readonly Message[] } | undefined;
}

/** Makes the Intents, at least one, of a set-up that has its name and marks. */
type Build = (identified: Identified) => readonly ServiceIntent[];

/** How the user learns of a set-up. */
export interface Telling {
  readonly io: ProcessIo;
  readonly spell: SettingWords;
  /** Logs a line. */
  readonly say: (line: string) => void;
}

/** The Intents of a capture, and the host that it is on. */
interface CaptureParts {
  readonly intents: readonly ServiceIntent[];
  readonly situation: RoutesContext;
  readonly identified: Identified;
  readonly telling: Telling;
  /** Another process has handed it over. */
  readonly isTaken: boolean;
}

/** The parts that keep the rules in force. */
interface Held {
  readonly settings: KernelSettings;
  readonly hold: Hold;
  readonly owned: boolean;
  readonly changes: readonly string[];
}

export class HeldCapture {
  /** The Intents in force. */
  intents: readonly ServiceIntent[];
  /** The changes that were made, a line each. */
  readonly changes: readonly string[];
  private readonly situation: RoutesContext;
  private readonly settings: KernelSettings;
  private readonly hold: Hold;
  private readonly telling: Telling;
  private readonly identified: Identified;
  /** Whether the kernel ties the firewall table to this process. */
  private readonly owned: boolean;
  private draining: DesiredState;
  private over = false;
  /** Nothing new is captured. */
  private isDrained = false;

  private constructor(parts: CaptureParts, held: Held) {
    const { intents, situation } = parts;
    this.intents = intents;
    this.situation = situation;
    this.telling = parts.telling;
    this.identified = parts.identified;
    this.settings = held.settings;
    this.changes = held.changes;
    this.hold = held.hold;
    this.owned = held.owned;
    this.draining = drainingParts(situation, intents);
  }

  /**
   * Installs the rules that `build` returns, and from then on restores, and logs, those that others
   * remove. A name, mark, table or priority that the request leaves open is chosen so that no
   * other set-up uses it. The kernel removes the firewall table with this process, however it
   * ends. `taken` is the set-up of a process that hands over: one transaction changes it, and it
   * keeps its name and its marks.
   * @throws CommandError where it conflicts with others, or the kernel rejects it
   */
  static async apply(
    request: IdentityRequest,
    build: Build,
    telling: Telling,
    { taken, retired }: Before = {},
  ): Promise<HeldCapture> {
    const { io, spell } = telling;
    const kernel = await explained("apply", spell, () => openKernel(taken?.fd));
    const wanted = taken === undefined ? request : identityRequest(taken.identity);
    try {
      return await explained("apply", spell, () =>
        exclusively(kernel, () => {
          const usual = representative(build({ request: wanted, takenBits: 0 }));
          const identified = identify(kernel, wanted, usual, "fresh");
          const intents = build(identified);
          const situation = loadContext(kernel, intents, io);
          if (taken === undefined) refuse(situation, spell);
          const identity = identityLine(usual, representative(intents));
          const isTaken = taken !== undefined;
          const parts = { intents, situation, identified, telling, isTaken };
          return HeldCapture.hold(parts, identity, retired?.messages(kernel));
        }),
      );
    } catch (error) {
      kernel.close();
      throw error;
    }
  }

  private static hold(
    capture: CaptureParts,
    identity: readonly string[],
    also: readonly Message[] = [],
  ): HeldCapture {
    const { situation, isTaken } = capture;
    const { say, spell } = capture.telling;
    const { kernel, parts, live, question } = situation;
    const settings = new KernelSettings(situation);
    const sysctls = settings.set();
    try {
      const applied = applyParts(kernel, parts, live, { tag: question.tag, owned: true, also });
      const { owned } = applied;
      if (!owned) say("this kernel has no owned tables: if this process is killed, its rules stay");
      const hold = new Hold({
        ...{ kernel, parts, question, owned, say },
        conflictLine: (conflict) => conflictLine(conflict, spell),
        keepSettings: () => settings.watch(),
        closed: false,
        deadlineMs: undefined,
        staysHeld: true,
        now: () => performance.now(),
      });
      void hold.run().catch((error) => say(`routes are no longer watched: ${error.message}`));
      for (const each of situation.cautions(spell)) say(each);
      for (const each of settings.missed()) say(sysctlHint(each, spell));
      const changes = [...identity, ...sysctls, ...applied.changes];
      return new HeldCapture(capture, { settings, hold, owned, changes });
    } catch (error) {
      // The process that handed the set-up over serves on, and needs the settings.
      if (!isTaken) settings.undo();
      throw error;
    }
  }

  /** How often rules that others had removed were restored. */
  get repairs(): number {
    return this.hold.repairs;
  }

  /** The rules in force, by kind; none of a capture that drains or is over. */
  get parts(): readonly HeldPart[] {
    const isGone = this.over || this.isDrained;
    return isGone ? this.hold.parts.map(withoutIt) : this.hold.parts;
  }

  /**
   * Installs the rules that `build` returns instead, in one transaction of the firewall; ip rules
   * and routes are added before it and removed after it. The set-up keeps its name, mark, table and
   * priority. Returns the changes, a line each.
   * @throws CommandError where the kernel rejects them; then nothing was changed
   */
  async change(build: Build): Promise<readonly string[]> {
    const { kernel, question } = this.situation;
    return await explained("apply", this.telling.spell, () =>
      exclusively(kernel, () => {
        const intents = build(this.identified);
        const { parts, live } = loadContext(kernel, intents, this.telling.io);
        const applied = applyParts(kernel, parts, live, { tag: question.tag, owned: this.owned });
        this.hold.adopt(parts);
        this.draining = drainingParts(this.situation, intents);
        this.intents = intents;
        return applied.changes;
      }),
    );
  }

  /**
   * Lets open connections go on, and leaves the rest to the next process: this process's table gets
   * another name, and captures nothing new where its rules can match open connections alone.
   */
  drain(): void {
    if (this.over) return;
    try {
      const change = () => {
        this.hold.change(this.draining);
        this.settings.rename(this.draining.firewall.table.name);
      };
      exclusively(this.situation.kernel, change, true);
      this.isDrained = true;
    } catch (error) {
      if (!(error instanceof SyscallError || error instanceof SysctlError)) throw error;
      this.telling.say(`the capture stays in place until the end: ${error.message}`);
    }
  }

  /** Returns the means to take the rules over; until `thaw` this process repairs nothing. */
  lend(): TakenCapture {
    this.hold.pause();
    const { tableName, mark, table, priority = 0 } = representative(this.intents);
    const { value, mask } = mark;
    const identity = { tableName, mark: { value, mask }, table, priority };
    return { fd: this.situation.kernel.netfilter.fd, identity };
  }

  /** Restores the rules of this process, whatever the other has changed, and repairs them again. */
  thaw(): void {
    if (this.over) return;
    const { kernel } = this.situation;
    try {
      kernel.netfilter.drain();
      breakLock(kernel);
      exclusively(kernel, () => this.putBack(), true);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.telling.say(`the rules may be incomplete: ${error.message}`);
    }
    this.hold.resume();
  }

  private putBack(): void {
    const { kernel, question } = this.situation;
    const { parts, live } = loadContext(kernel, this.intents, this.telling.io);
    applyParts(kernel, parts, live, { tag: question.tag, owned: this.owned });
  }

  /** Leaves the rules to another process, which has them now. */
  abandon(): void {
    if (this.over) return;
    this.over = true;
    this.hold.abandon();
    this.situation.kernel.close();
  }

  /** Removes the rules and restores the settings; a second time it does nothing. */
  release(): void {
    if (this.over) return;
    this.over = true;
    this.hold.signal("SIGTERM");
    this.settings.release();
    this.situation.kernel.close();
  }
}

/** The rules that stay while open connections end. */
function drainingParts(
  { kernel, question }: RoutesContext,
  intents: readonly ServiceIntent[],
): DesiredState {
  const plan = drainPlan(intents, drainingName(question.name, kernel.netfilter.portId));
  return partsOf(plan, (name) => interfaceIndex(kernel, name), cgroupId);
}

function withoutIt(part: HeldPart): HeldPart {
  return { ...part, isInstalled: false };
}

function identityRequest({ mark, ...rest }: CaptureIdentity): IdentityRequest {
  return { ...rest, mark: { value: mark.value as Mark, mask: mark.mask } };
}

/** An Intent whose name, mark, table and priority are those of all: NAT has the name alone. */
function representative(intents: readonly ServiceIntent[]): Intent {
  const found = intents.find(({ intent }) => !intent.redirect) ?? intents[0];
  if (found === undefined) throw new RangeError("nothing is captured");
  return found.intent;
}

/** The line about the chosen values, unless they are the defaults or the request's. */
function identityLine(usual: Intent, intent: Intent): readonly string[] {
  const [before, chosen] = [identityText(usual), identityText(intent)];
  return before === chosen ? [] : [`chosen, because others use the default ones: ${chosen}`];
}

function identityText({ tableName, redirect, mark, table, priority }: Intent): string {
  const values = redirect ? "" : `, mark ${formatMark(mark)}, table ${table}, priority ${priority}`;
  return `firewall table inet ${tableName}${values}`;
}

/** @throws CommandError for a conflict with others, another set-up's table included */
function refuse(situation: RoutesContext, spell: SettingWords): void {
  const conflicts = conflictsOf(situation, spell);
  if (conflicts.length > 0) throw new CommandError(conflictText(conflicts));
  if (situation.live.firewall?.chains.some(({ rules }) => rules.length > 0) !== true) return;
  throw new CommandError(
    "Cannot apply: another set-up of tproxy uses the firewall table inet " +
      `${situation.question.name}, and would be removed with ours: give another ` +
      `${spell("table-name")} or none; remove that set-up with "tproxy routes --remove"; or use ` +
      `it with ${spell("install", "none")}`,
  );
}
