/**
 * The kernel path of a running process: its rules are in force as long as the process lives, and
 * its slots follow the upstreams. After that connections are as if it had never been there.
 */

import { SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET, NFT_TABLE_F_PERSIST } from "../../../ffi/netlink/constants.ts";
import { decodeChain, dumpChains } from "../../../ffi/netlink/nftables/chain.ts";
import { deleteTable, newTable } from "../../../ffi/netlink/nftables/table.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { drainPriority } from "../../capture/kernel-path/anchor.ts";
import { drainPathPlan } from "../../capture/kernel-path/drain.ts";
import { shapeOf } from "../../capture/kernel-path/identity.ts";
import { type PathIntent, pathServicesMax } from "../../capture/kernel-path/intent.ts";
import { freeNumbers, numbersIn } from "../../capture/kernel-path/numbers.ts";
import { makePathPlan, sourcePriority } from "../../capture/kernel-path/plan.ts";
import { type Applied, applyParts, ownerFlags } from "../../capture/live/apply.ts";
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
import type { FlowObject } from "../../capture/plan/flow-rule.ts";
import type { Plan } from "../../capture/plan/plan.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import { CommandError } from "../../errors.ts";
import { conflictLine, explained } from "../apply-rules.ts";
import { KernelSettings } from "../kernel-settings.ts";
import { FlowtableLinks, flowtableLinks, wantsFlowtable } from "./flowtable-links.ts";
import {
  currentObjects,
  isPredecessor,
  type LeftPath,
  type LeftService,
  leftPaths,
  leftText,
} from "./left-tables.ts";

/** What `HeldPath.apply` has to know. */
export interface PathSettings {
  /** The names of the services; undefined: the only one. */
  readonly services: readonly (string | undefined)[];
  /** What they listen at: a process that listened at any of these was of the same services. */
  readonly listeners: readonly string[];
  /** The name of the table; it gets another one if somebody has it, unless `isNamed`. */
  readonly tableName: string;
  readonly isNamed: boolean;
  readonly spell: SettingWords;
  /** Whether rules that another process has left are taken over. */
  readonly adopts: boolean;
  /** What is carried, by services with these numbers and slots; the table's name is not used. */
  readonly build: (services: readonly NumberedService[], kernel: Kernel) => PathIntent;
  /** Logs a line. */
  readonly say: (line: string) => void;
}

type Telling = Pick<PathSettings, "spell" | "say">;

/** The number of a service, and what its slots lead to already. */
export interface NumberedService {
  readonly number: number;
  readonly slots: LeftService["slots"] | undefined;
}

/** How rules were installed. */
interface Installed {
  readonly links: FlowtableLinks;
  readonly hold: Hold;
  readonly settings: KernelSettings;
  readonly changes: readonly string[];
  /** They were there already. */
  readonly isAdopted: boolean;
}

export class HeldPath {
  /** What was changed, a line each. */
  readonly changes: readonly string[];
  /** Another process has left the rules, and they were there all the time. */
  readonly isAdopted: boolean;
  readonly kernel: Kernel;
  #intent: PathIntent;
  /** The table's name. */
  #name: string;
  readonly #links: FlowtableLinks;
  readonly #hold: Hold;
  readonly #settings: KernelSettings;
  readonly #say: (line: string) => void;
  #isDraining = false;
  #isOver = false;

  private constructor(
    intent: PathIntent,
    kernel: Kernel,
    { links, hold, settings, changes, isAdopted }: Installed,
    say: (line: string) => void,
  ) {
    this.#intent = intent;
    this.#name = intent.tableName;
    this.kernel = kernel;
    this.#links = links;
    this.#hold = hold;
    this.#settings = settings;
    this.changes = changes;
    this.isAdopted = isAdopted;
    this.#say = say;
  }

  /**
   * Puts the rules in. The kernel removes them with this process, however it ends, unless they are
   * to stay. What a process of the same services has left is replaced in the same transaction; its
   * services keep their numbers and slots.
   * @throws CommandError where the kernel refuses
   */
  static async apply(settings: PathSettings): Promise<HeldPath> {
    const { services, build, adopts, spell, say } = settings;
    const kernel = await explained("apply", spell, openKernel);
    try {
      return await explained("apply", spell, () =>
        exclusively(kernel, () => {
          const all = adopts ? leftPaths(kernel) : [];
          const left = all.filter((each) => isPredecessor(each, predecessorOf(settings)));
          const known = left.flatMap((each) => each.services);
          const own = services.map((name) => known.find((each) => each.name === name));
          const gone = new Set(left.flatMap(({ tables }) => tables.map(({ name }) => name)));
          const free = numbersFor(own.filter((each) => each === undefined).length, kernel, {
            ...{ except: gone, also: own.flatMap((each) => each?.number ?? []) },
          });
          const numbered = own.map((each) => ({
            number: each?.number ?? (free.shift() as number),
            slots: each?.slots,
          }));
          const name = nameFor(kernel, settings, left, all);
          const intent = { ...build(numbered, kernel), tableName: name };
          const held = HeldPath.#install(kernel, intent, settings, left);
          const others = left.filter((each) => each.name !== name);
          const tables = others.flatMap((each) => each.tables);
          if (tables.length > 0) kernel.netfilter.batch(tables.map(deleteTable));
          for (const each of others) say(`${leftText(each)} was removed`);
          return held;
        }),
      );
    } catch (error) {
      kernel.close();
      throw error;
    }
  }

  static #install(
    kernel: Kernel,
    intent: PathIntent,
    settings: Telling,
    left: readonly LeftPath[],
  ): HeldPath {
    const before = left.find(({ name }) => name === intent.tableName);
    const links = new FlowtableLinks(kernel, settings.say);
    const held = links.with(intent, (each) =>
      HeldPath.#holdPlan({ kernel, links }, each, settings, before),
    );
    held.followLinks();
    return held;
  }

  static #holdPlan(
    { kernel, links }: { kernel: Kernel; links: FlowtableLinks },
    intent: PathIntent,
    { spell, say }: Telling,
    left: LeftPath | undefined,
  ): HeldPath {
    const plan = makePathPlan(intent);
    const question = { tables: [], tag: undefined, name: plan.firewall.name };
    const live: CurrentState = readCurrentState(kernel, question);
    const parts = partsIn(kernel, plan);
    const settings = new KernelSettings({ kernel, plan, live, question });
    const sysctls = settings.set();
    let held: HeldPath | undefined;
    const end = { persists: intent.onExit === "keep", closed: intent.onExit === "closed" };
    try {
      const adopted = left && adopt(kernel, left, plan, parts, end.persists);
      const applied =
        adopted ?? applyParts(kernel, parts, live, { tag: undefined, owned: true, ...end });
      const { owned } = applied;
      if (!owned) say(end.persists ? unownedKept : unowned);
      const hold = new Hold({
        ...{ kernel, parts, question, owned, say },
        conflictLine: (conflict) => conflictLine(conflict, spell),
        keepSettings: () => {
          held?.followLinks();
          return settings.watch();
        },
        ...{ ...end, deadlineMs: undefined, staysHeld: true },
        now: () => performance.now(),
      });
      void hold.run().catch((error) => say(`rules are no longer watched: ${error.message}`));
      const changes = [...sysctls, ...applied.changes];
      const isAdopted = left?.contents !== undefined;
      held = new HeldPath(intent, kernel, { links, hold, settings, changes, isAdopted }, say);
      return held;
    } catch (error) {
      if (left === undefined) settings.undo();
      throw error;
    }
  }

  /** Numbers for so many more services, none of those in `also`. @throws CommandError */
  freeNumbers(count: number, also: readonly number[]): readonly number[] {
    return numbersFor(count, this.kernel, { also });
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
    const wanted = { ...intent, tableName: this.#intent.tableName };
    const from = makePathPlan(this.#intent);
    const change = (next: PathIntent) => {
      this.#change(from, makePathPlan(next));
      return next;
    };
    try {
      this.#intent = exclusively(this.kernel, () => this.#links.with(wanted, change), true);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.#say(`the upstreams of the kernel path stay as they are: ${error.message}`);
    }
  }

  /** Interfaces have come or gone. */
  private followLinks(): void {
    if (this.#isOver || !wantsFlowtable(this.#intent)) return;
    if (this.#links.follow(this.#name) || this.#isDraining) return;
    this.update({ ...this.#intent, offload: flowtableLinks(this.kernel) });
  }

  #change(from: Plan, to: Plan): void {
    const parts = partsIn(this.kernel, to);
    if (shapeOf(from.firewall) !== shapeOf(to.firewall)) return this.#hold.change(parts);
    const { name, objects = [] } = to.firewall;
    const messages = changesOf(name, from.firewall.objects ?? [], objects);
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
        this.#hold.changeLast(parts);
        this.#settings.rename(name);
        this.#name = name;
      };
      exclusively(this.kernel, change, true);
    } catch (error) {
      if (!(error instanceof SyscallError || error instanceof SysctlError)) throw error;
      this.#say(`new connections are carried until the end: ${error.message}`);
    }
  }

  /**
   * Leaves the rules in force and to the next process, if they are to stay and take connections;
   * otherwise removes them. A second time it does nothing.
   */
  leave(): void {
    if (this.#isDraining || this.#intent.onExit !== "keep") return this.release();
    if (this.#isOver) return;
    this.#isOver = true;
    this.#hold.abandon();
    this.kernel.close();
  }

  /** Removes everything; a second time it does nothing. */
  release(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#hold.signal("SIGTERM");
    this.#settings.release();
    this.kernel.close();
  }
}

const unowned = "this kernel has no owned tables: if this process is killed, its rules stay";
const unownedKept =
  "this kernel has no tables that outlive their owner (Linux 6.9): the rules have no owner, and " +
  "other programs can remove them";

/**
 * Takes over a table that does what the Plan wants: sends the slots that differ, and makes the
 * table this process's own where it can have an owner. Undefined: its rules are others.
 */
function adopt(
  kernel: Kernel,
  { contents, identity }: LeftPath,
  { firewall }: Plan,
  parts: DesiredState,
  persists: boolean,
): Applied | undefined {
  if (!persists || contents === undefined || identity.shape !== shapeOf(firewall)) return undefined;
  const { objects = [], name } = firewall;
  const current = currentObjects(contents, parts.firewall, objects);
  if (current === undefined) return undefined;
  const { family, flags = 0 } = contents.table;
  const owned = (flags & NFT_TABLE_F_PERSIST) !== 0;
  const own = owned ? [newTable({ family, name, flags: ownerFlags(true) }, true)] : [];
  const messages = [...own, ...changesOf(name, current, objects)];
  if (messages.length > 0) kernel.netfilter.batch(messages);
  return { owned, changes: [`~ table inet ${name}: adopted, as another process has left it`] };
}

function changesOf(
  table: string,
  from: readonly FlowObject[],
  to: readonly FlowObject[],
): Message[] {
  const inet = { family: NFPROTO_INET, table };
  return to.flatMap((each, i) => {
    const before = from[i];
    return before === undefined ? [] : objectChanges(inet, before, each);
  });
}

function predecessorOf({ listeners, tableName, isNamed }: PathSettings) {
  return isNamed ? { listeners, tableName } : { listeners };
}

/**
 * The name that the table gets. @throws CommandError where it has to have one that a table of
 * another set-up, or of another program, has
 */
function nameFor(
  kernel: Kernel,
  { tableName, isNamed, spell }: PathSettings,
  left: readonly LeftPath[],
  all: readonly LeftPath[],
): string {
  const live = readCurrentState(kernel, { tables: [], tag: undefined, name: tableName });
  if (!isNamed) {
    // What others have left closed stays so.
    const taken = [...live.tableNames, ...all.map(({ name }) => name)];
    return left[0]?.name ?? freeName(tableName, { ...live, tableNames: taken });
  }
  const isOurs = left.some(({ name }) => name === tableName);
  if (isOurs || !live.tableNames.includes(tableName)) return tableName;
  throw new CommandError(
    `Cannot apply: there is a firewall table inet ${tableName} already: give another ` +
      `${spell("table-name")} or none; or remove that set-up with "tproxy routes --remove"`,
  );
}

/**
 * Numbers that no service of the kernel path has here, whatever its table is called: but for tables
 * of the names in `except`, and none of those in `also`.
 * @throws CommandError
 */
function numbersFor(
  services: number,
  kernel: Kernel,
  {
    except = new Set(),
    also = [],
  }: { except?: ReadonlySet<string>; also?: readonly number[] } = {},
): number[] {
  const rules = kernel.netfilter
    .dump(dumpChains(NFPROTO_INET), decodeChain)
    .filter(({ family, table, base }) => {
      if (family !== NFPROTO_INET || base?.type !== "nat" || except.has(table)) return false;
      return base.priority === sourcePriority || base.priority === drainPriority;
    })
    .flatMap((chain) => firewallRules(kernel, chain));
  const numbers = freeNumbers(new Set([...numbersIn(rules), ...also]), services);
  if (numbers.length === services) return numbers;
  throw new CommandError(
    `Cannot apply: the kernel path has room for ${pathServicesMax} services, of this process and ` +
      "all others: let the relay carry some",
  );
}

function partsIn(kernel: Kernel, plan: Plan): DesiredState {
  return partsOf(plan, (name) => interfaceIndex(kernel, name), cgroupId);
}
