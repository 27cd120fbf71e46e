/**
 * The kernel path of a running process: its rules are in force as long as the process lives, and
 * its slots follow the upstreams. After that connections are as if it had never been there.
 */

import { EOPNOTSUPP, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import { decodeChain, dumpChains } from "../../../ffi/netlink/nftables/chain.ts";
import { NetlinkError } from "../../../ffi/netlink/socket.ts";
import { type PathIntent, pathServicesMax } from "../../capture/kernel-path/intent.ts";
import { freeNumbers, numbersIn } from "../../capture/kernel-path/numbers.ts";
import {
  drainPathPlan,
  drainPriority,
  makePathPlan,
  sourcePriority,
} from "../../capture/kernel-path/plan.ts";
import { applyParts } from "../../capture/live/apply.ts";
import { cgroupId } from "../../capture/live/cgroups.ts";
import { freeName } from "../../capture/live/choose.ts";
import { type CurrentState, readCurrentState } from "../../capture/live/current-state.ts";
import { type DesiredState, partsOf } from "../../capture/live/desired-state.ts";
import { Hold } from "../../capture/live/hold.ts";
import { interfaceIndex, type Kernel, openKernel } from "../../capture/live/kernel.ts";
import { exclusively } from "../../capture/live/lock.ts";
import { drainingName } from "../../capture/live/names.ts";
import { firewallRules } from "../../capture/live/read-setups.ts";
import { SysctlError } from "../../capture/live/setting-memory.ts";
import { objectChanges } from "../../capture/plan/flow-netlink.ts";
import type { Plan } from "../../capture/plan/plan.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import { CommandError } from "../../errors.ts";
import { conflictLine, explained } from "../apply-rules.ts";
import { KernelSettings } from "../kernel-settings.ts";

/** What `HeldPath.apply` has to know. */
export interface PathSettings {
  /** How many services there are. */
  readonly services: number;
  /**
   * What is carried, by services with these numbers; its table gets another name if somebody has
   * this one.
   */
  readonly build: (numbers: readonly number[], kernel: Kernel) => PathIntent;
  /** Whether the name is to be this one and no other. */
  readonly isNamed: boolean;
  readonly spell: SettingWords;
  /** Logs a line. */
  readonly say: (line: string) => void;
}

export class HeldPath {
  /** What was changed, a line each. */
  readonly changes: readonly string[];
  readonly kernel: Kernel;
  #intent: PathIntent;
  readonly #hold: Hold;
  readonly #settings: KernelSettings;
  readonly #say: (line: string) => void;
  #isDraining = false;
  #isOver = false;

  private constructor(
    intent: PathIntent,
    kernel: Kernel,
    hold: Hold,
    settings: KernelSettings,
    changes: readonly string[],
    say: (line: string) => void,
  ) {
    this.#intent = intent;
    this.kernel = kernel;
    this.#hold = hold;
    this.#settings = settings;
    this.changes = changes;
    this.#say = say;
  }

  /**
   * Puts the rules in. The kernel removes them with this process, however it ends. Where it has no
   * flowtables they are put in without one.
   * @throws CommandError where the kernel refuses
   */
  static async apply(settings: PathSettings): Promise<HeldPath> {
    const { services, build, isNamed, spell, say } = settings;
    const kernel = await explained("apply", spell, openKernel);
    try {
      return await explained("apply", spell, () =>
        exclusively(kernel, () => {
          const intent = build(numbersFor(services, kernel), kernel);
          const wanted = { tables: [], tag: undefined, name: intent.tableName };
          const before = readCurrentState(kernel, wanted);
          if (isNamed) refuseTaken(intent.tableName, before, spell);
          const tableName = isNamed ? intent.tableName : freeName(intent.tableName, before);
          const named = { ...intent, tableName };
          try {
            return HeldPath.#holdPlan(kernel, named, settings);
          } catch (error) {
            if (named.offload.length === 0 || !isWithoutFlowtable(error)) throw error;
            say("the kernel has no flowtables here: connections are carried without one");
            return HeldPath.#holdPlan(kernel, { ...named, offload: [] }, settings);
          }
        }),
      );
    } catch (error) {
      kernel.close();
      throw error;
    }
  }

  static #holdPlan(
    kernel: Kernel,
    intent: PathIntent,
    { spell, say }: Pick<PathSettings, "spell" | "say">,
  ): HeldPath {
    const plan = makePathPlan(intent);
    const question = { tables: [], tag: undefined, name: plan.firewall.name };
    const live: CurrentState = readCurrentState(kernel, question);
    const parts = partsIn(kernel, plan);
    const settings = new KernelSettings({ kernel, plan, live, question });
    const sysctls = settings.set();
    try {
      const applied = applyParts(kernel, parts, live, { tag: undefined, owned: true });
      const { owned } = applied;
      if (!owned) say("this kernel has no owned tables: if this process is killed, its rules stay");
      const hold = new Hold({
        ...{ kernel, parts, question, owned, say },
        conflictLine: (conflict) => conflictLine(conflict, spell),
        keepSettings: () => settings.watch(),
        ...{ closed: false, deadlineMs: undefined, staysHeld: true },
        now: () => performance.now(),
      });
      void hold.run().catch((error) => say(`rules are no longer watched: ${error.message}`));
      return new HeldPath(intent, kernel, hold, settings, [...sysctls, ...applied.changes], say);
    } catch (error) {
      settings.undo();
      throw error;
    }
  }

  /** Numbers for so many more services. @throws CommandError */
  freeNumbers(count: number): readonly number[] {
    return numbersFor(count, this.kernel);
  }

  /** What is in force. */
  get intent(): PathIntent {
    return this.#intent;
  }

  /**
   * From one transaction on carries this instead: where only upstreams have changed, only their
   * slots are sent; otherwise all rules are made anew. Established connections go on.
   */
  update(intent: PathIntent): void {
    if (this.#isOver || this.#isDraining) return;
    const { tableName, offload } = this.#intent;
    // Where the kernel has no flowtables it has been asked already.
    const next = { ...intent, tableName, offload: offload.length === 0 ? [] : intent.offload };
    const [from, to] = [makePathPlan(this.#intent), makePathPlan(next)];
    try {
      exclusively(this.kernel, () => this.#change(from, to), true);
      this.#intent = next;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.#say(`the upstreams of the kernel path stay as they are: ${error.message}`);
    }
  }

  #change(from: Plan, to: Plan): void {
    const parts = partsIn(this.kernel, to);
    if (!isSameBut(from, to)) return this.#hold.change(parts);
    const inet = { family: NFPROTO_INET, table: to.firewall.name };
    const [old = [], objects = []] = [from.firewall.objects, to.firewall.objects];
    const messages = objects.flatMap((each, i) => {
      const before = old[i];
      return before === undefined ? [] : objectChanges(inet, before, each);
    });
    if (messages.length > 0) this.kernel.netfilter.batch(messages);
    this.#hold.holds(parts);
  }

  /** Takes no new connections; established ones go on. The table's name is free again. */
  drain(): void {
    if (this.#isOver || this.#isDraining) return;
    this.#isDraining = true;
    const name = drainingName(this.#intent.tableName, this.kernel.netfilter.portId);
    try {
      const parts = partsIn(this.kernel, drainPathPlan(this.#intent, name));
      const change = () => {
        this.#hold.change(parts);
        this.#settings.rename(name);
      };
      exclusively(this.kernel, change, true);
    } catch (error) {
      if (!(error instanceof SyscallError || error instanceof SysctlError)) throw error;
      this.#say(`new connections are carried until the end: ${error.message}`);
    }
  }

  /** Takes everything back; a second time it does nothing. */
  release(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#hold.signal("SIGTERM");
    this.#settings.release();
    this.kernel.close();
  }
}

/** @throws CommandError where a table of another set-up, or of another program, has the name */
function refuseTaken(name: string, { tableNames }: CurrentState, spell: SettingWords): void {
  if (!tableNames.includes(name)) return;
  throw new CommandError(
    `Cannot apply: there is a firewall table inet ${name} already: give another ` +
      `${spell("table-name")} or none; or remove that set-up with "tproxy routes --remove"`,
  );
}

/**
 * Numbers that no service of the kernel path has here, whatever its table is called.
 * @throws CommandError
 */
function numbersFor(services: number, kernel: Kernel): number[] {
  const rules = kernel.netfilter
    .dump(dumpChains(NFPROTO_INET), decodeChain)
    .filter(({ family, base }) => {
      if (family !== NFPROTO_INET || base?.type !== "nat") return false;
      return base.priority === sourcePriority || base.priority === drainPriority;
    })
    .flatMap((chain) => firewallRules(kernel, chain));
  const numbers = freeNumbers(numbersIn(rules), services);
  if (numbers.length === services) return numbers;
  throw new CommandError(
    `Cannot apply: the kernel path has room for ${pathServicesMax} services, of this process and ` +
      "all others: let the relay carry some",
  );
}

function partsIn(kernel: Kernel, plan: Plan): DesiredState {
  return partsOf(plan, (name) => interfaceIndex(kernel, name), cgroupId);
}

/** ENOENT for a flowtable: the kernel has none, or an interface has gone. */
function isWithoutFlowtable(error: unknown): boolean {
  if (!(error instanceof NetlinkError)) return false;
  return error.code === "ENOENT" || error.errno === EOPNOTSUPP || error.code === "ENODEV";
}

/** Whether two plans differ in nothing but what is in their maps and sets of upstreams. */
function isSameBut(from: Plan, to: Plan): boolean {
  const bare = ({ firewall }: Plan) => {
    const objects = firewall.objects?.map((each) => {
      if (each.kind === "slots") return { ...each, slots: each.slots.length };
      return each.kind === "endpoints" ? { ...each, endpoints: 0 } : each;
    });
    return JSON.stringify({ ...firewall, objects });
  };
  return bare(from) === bare(to);
}
