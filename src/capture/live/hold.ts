/**
 * Holds what was applied: for as long as the process lives, or until a deadline.
 *
 * The main thread owns netlink, and its loop is Bun's, which cannot watch a descriptor. So the
 * monitor is read without waiting ten times a second: one `recv` that answers EAGAIN, and what
 * others flush is missing for a tenth of a second at most. Nothing is made of the messages but an
 * occasion to compare the system with the Plan, so none that is lost is missed.
 */

import { EEXIST, SyscallError } from "../../../ffi/errno.ts";
import {
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NFNLGRP_NFTABLES,
  NFPROTO_INET,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV4_RULE,
  RTNLGRP_IPV6_ROUTE,
  RTNLGRP_IPV6_RULE,
  RTNLGRP_LINK,
} from "../../../ffi/netlink/constants.ts";
import { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import {
  decodeTable,
  deleteTable,
  dumpTables,
  newTable,
} from "../../../ffi/netlink/nftables/table.ts";
import { firewallBatch } from "./apply.ts";
import { closedMessages } from "./closed.ts";
import { type Conflict, findConflicts } from "./conflicts.ts";
import { type CurrentState, readCurrentState, type Selector } from "./current-state.ts";
import type { DesiredState, RoutingPart } from "./desired-state.ts";
import { describePart, isSameFirewall, missingRouting, ownRouting } from "./differences.ts";
import {
  type HoldAction,
  type HoldSignal,
  type HoldState,
  nextHold,
  startHold,
} from "./hold-state.ts";
import type { Kernel } from "./kernel.ts";
import { exclusively } from "./lock.ts";
import { closedSuffix, confirmedSuffix } from "./names.ts";
import { deleteTables, removeRouting } from "./remove.ts";

const tickMs = 100;

/** The set-up that is held, and how. */
export interface Holding {
  readonly kernel: Kernel;
  readonly parts: DesiredState;
  readonly question: Selector;
  /** Whether the kernel removes the table with this process. */
  readonly owned: boolean;
  /** Whether the table outlives the process that owns it. */
  readonly persists?: boolean | undefined;
  /** Whether the table that drops stays behind. */
  readonly closed: boolean;
  /** When everything is removed; on the clock of `now`. */
  readonly deadlineMs: number | undefined;
  /** It stays held after confirmation. */
  readonly staysHeld: boolean;
  readonly now: () => number;
  /** Sets again kernel settings that are lost; a line for each. */
  readonly keepSettings: () => readonly string[];
  /** The text of a conflict. */
  readonly conflictLine: (conflict: Conflict) => string;
  /** Logs a line. */
  readonly say: (line: string) => void;
}

/** The kinds of what is held. */
export type HeldKind = "firewall" | "rule" | "route" | "setting";

/** What is known of all that is held of a kind. */
export interface HeldPart {
  readonly part: HeldKind;
  /** All of it is there, as far as the last look has shown. */
  readonly isInstalled: boolean;
  /** How often something of it was missing. */
  readonly repairs: number;
}

/** How a hold came to its end. */
export type HoldEnd = Extract<HoldAction, "keep" | "expire" | "abandon" | "release">;

export class Hold {
  /** How often something that was missing was put back. */
  repairs = 0;
  readonly #repairs: Record<HeldKind, number> = { firewall: 0, rule: 0, route: 0, setting: 0 };
  /** What could not be put back. */
  #lost: readonly RoutingPart[] = [];
  #holding: Holding;
  readonly #monitors: readonly NetlinkMonitor[];
  #state: HoldState;
  #conflicts: ReadonlySet<string>;
  #timer: ReturnType<typeof setInterval> | undefined;
  #finish: (end: HoldEnd) => void = () => {};
  #fail: (error: unknown) => void = () => {};

  /** Begins to watch. @throws SyscallError */
  constructor(holding: Holding) {
    this.#holding = holding;
    this.#state = startHold(holding.staysHeld, holding.deadlineMs);
    this.#conflicts = new Set(this.#findConflicts(this.#read()));
    // An interface that is made anew has lost its settings.
    const groups = [
      RTNLGRP_LINK,
      RTNLGRP_IPV4_RULE,
      RTNLGRP_IPV6_RULE,
      RTNLGRP_IPV4_ROUTE,
      RTNLGRP_IPV6_ROUTE,
    ];
    const monitors = [NetlinkMonitor.open(NETLINK_ROUTE, groups)];
    // A table that has an owner cannot be changed by others; the one that drops has none.
    if (!holding.owned || holding.closed)
      monitors.push(NetlinkMonitor.open(NETLINK_NETFILTER, [NFNLGRP_NFTABLES]));
    this.#monitors = monitors;
  }

  /** What is held, by its kinds. */
  get parts(): readonly HeldPart[] {
    const { routing } = this.#holding.parts;
    const kinds = new Set<HeldKind>(["firewall", ...routing.map(({ kind }) => kind), "setting"]);
    return [...kinds].map((part) => ({
      part,
      isInstalled: !this.#lost.some(({ kind }) => kind === part),
      repairs: this.#repairs[part],
    }));
  }

  /** Settles when the hold is over, and everything that belongs to its end is done. */
  run(): Promise<HoldEnd> {
    return new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
      this.resume();
    });
  }

  /** Leaves the set-up to another process, which may change it, until `resume` or `abandon`. */
  pause(): void {
    clearInterval(this.#timer);
  }

  /** Looks after the set-up. */
  resume(): void {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#guarded(() => this.#tick()), tickMs);
  }

  /** Ends the hold: another process has the set-up for good. */
  abandon(): void {
    this.#end("keep");
  }

  /** Tells of a signal, or of a standard output that nobody reads any more. */
  signal(name: HoldSignal): void {
    this.#guarded(() => this.#next({ kind: "signal", name }));
  }

  /**
   * Holds these instead of the others, from one transaction on; their table may have another
   * name. @throws SyscallError
   */
  change(parts: DesiredState): void {
    const { kernel, owned, persists, closed, question } = this.#holding;
    const { name } = parts.firewall.table;
    kernel.netfilter.batch([
      ...deleteTables(this.#read(), question.name),
      ...firewallBatch(parts, { tables: [] }, { owned, persists, closed }),
    ]);
    this.#holding = { ...this.#holding, parts, question: { ...question, name } };
    this.#lost = [];
  }

  /**
   * The same at the end: the new table goes with the process, and the one that drops stays behind,
   * without being held any longer. @throws SyscallError
   */
  changeLast(parts: DesiredState): void {
    const { kernel, owned, question } = this.#holding;
    const { name } = parts.firewall.table;
    const tables = this.#read().tables.filter((each) => each.name !== question.name + closedSuffix);
    kernel.netfilter.batch([
      ...deleteTables({ tables }, question.name),
      ...firewallBatch(parts, { tables: [] }, { owned }),
    ]);
    const last = { parts, question: { ...question, name }, persists: false, closed: false };
    this.#holding = { ...this.#holding, ...last };
  }

  /** Holds these from now on, which are in the system already; the table's name is the same. */
  holds(parts: DesiredState): void {
    this.#holding = { ...this.#holding, parts };
  }

  /** Holds these instead of the others, which the caller has put in place already. */
  adopt(parts: DesiredState): void {
    this.#holding = { ...this.#holding, parts };
    this.#lost = [];
  }

  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#stop();
      this.#fail(error);
    }
  }

  #tick(): void {
    const heard = this.#monitors.map((monitor) => monitor.drain()).includes(true);
    this.#next({
      kind: "tick",
      nowMs: this.#holding.now(),
      heard,
      isConfirmed: this.#state.phase === "pending" && this.#isConfirmed(),
    });
  }

  #isConfirmed(): boolean {
    const { kernel, question } = this.#holding;
    const tables = kernel.netfilter.dump(dumpTables(NFPROTO_INET), decodeTable);
    return tables.some(({ name }) => name === question.name + confirmedSuffix);
  }

  #next(input: Parameters<typeof nextHold>[1]): void {
    const [state, action] = nextHold(this.#state, input);
    this.#state = state;
    if (action !== undefined) this.#do(action);
  }

  #do(action: HoldAction): void {
    const { say } = this.#holding;
    switch (action) {
      case "look":
        return this.#look();
      case "confirm":
        this.#settle(true);
        return say("confirmed");
      case "keep":
        this.#settle(false);
        return this.#end("keep");
      case "release":
        exclusively(this.#holding.kernel, () => this.#release(), true);
        return this.#end("release");
      case "expire":
      case "abandon":
        return exclusively(this.#holding.kernel, () => this.#takeBack(action), true);
    }
  }

  #end(end: HoldEnd): void {
    this.#stop();
    this.#finish(end);
  }

  #stop(): void {
    clearInterval(this.#timer);
    for (const monitor of this.#monitors) monitor.close();
  }

  #read(): CurrentState {
    return readCurrentState(this.#holding.kernel, this.#holding.question);
  }

  #findConflicts(live: CurrentState): string[] {
    const { parts, question, conflictLine } = this.#holding;
    return findConflicts(parts, { ...live, tables: [] }, question.tag).map(conflictLine);
  }

  /** A failure does not end the process, and with it the capture: the step is retried. */
  #look(): void {
    const { say, now } = this.#holding;
    try {
      if (this.#repair()) this.#next({ kind: "repaired", nowMs: now(), failed: false });
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      say(`cannot compare the system with what is held: ${error.message}`);
      this.#next({ kind: "repaired", nowMs: now(), failed: true });
    }
  }

  /** Restores missing objects and logs new ones. Returns whether anything was missing. */
  #repair(): boolean {
    const { kernel, parts, owned, persists, closed, say, keepSettings } = this.#holding;
    const closedName = parts.firewall.table.name + closedSuffix;
    const live = readCurrentState(kernel, this.#holding.question, owned);
    const missing = missingRouting(parts, live);
    this.#lost = missing.filter((part) => !this.#putBack(part));
    const changed = !owned && !isSameFirewall(parts.firewall, live.firewall);
    if (changed) {
      const pending = this.#state.phase === "pending";
      kernel.netfilter.batch(firewallBatch(parts, live, { owned, persists, closed, pending }));
      say(`put back what another program changed: table inet ${parts.firewall.table.name}`);
    }
    const unclosed = closed && !changed && !live.tables.some((each) => each.name === closedName);
    if (unclosed) {
      kernel.netfilter.batch(closedMessages(parts));
      say(`put back what another program removed: table inet ${closedName}`);
    }
    const settings = keepSettings();
    for (const each of settings) say(`set again: ${each}`);
    const conflicts = this.#findConflicts(live);
    for (const each of conflicts) if (!this.#conflicts.has(each)) say(`drift: ${each}`);
    this.#conflicts = new Set(conflicts);
    const wasMissing = missing.length > 0 || changed || unclosed || settings.length > 0;
    if (wasMissing) this.repairs++;
    for (const kind of new Set(missing.map((part) => part.kind))) this.#repairs[kind]++;
    if (changed || unclosed) this.#repairs.firewall++;
    if (settings.length > 0) this.#repairs.setting++;
    return wasMissing;
  }

  /** False: the kernel has refused it. */
  #putBack(part: RoutingPart): boolean {
    const { kernel, say } = this.#holding;
    const what = `put back what another program removed: ${describePart(part)}`;
    try {
      kernel.route.request(part.message);
      say(what);
      return true;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      say(`cannot ${what}: ${error.message}`);
      return false;
    }
  }

  /**
   * Confirmed: the same table without those beside it that are about confirmation, and without an
   * owner unless it stays held.
   */
  #settle(staysHeld: boolean): void {
    const { kernel, parts, owned, closed } = this.#holding;
    const options = { owned: owned && staysHeld, closed };
    kernel.netfilter.batch(firewallBatch(parts, this.#read(), options));
  }

  #release(): void {
    const { kernel, parts, closed, question } = this.#holding;
    const live = this.#read();
    const tables = live.tables.filter(
      ({ name }) => !closed || name !== question.name + closedSuffix,
    );
    const routing = ownRouting(parts, live, question.tag);
    const deletions = deleteTables({ tables }, question.name);
    if (deletions.length > 0) kernel.netfilter.batch(deletions);
    removeRouting(kernel, routing);
  }

  /**
   * In the same transaction it makes the table that is the confirmation, as one that must not be
   * there: if somebody has confirmed at the last moment, the kernel refuses the whole.
   */
  #takeBack(end: "expire" | "abandon"): void {
    const { kernel, parts, question, staysHeld } = this.#holding;
    const live = this.#read();
    const confirmed = { family: NFPROTO_INET, name: question.name + confirmedSuffix };
    const tables = live.tables.filter(({ name }) => name !== confirmed.name);
    try {
      kernel.netfilter.batch([
        newTable(confirmed),
        deleteTable(confirmed),
        ...deleteTables({ tables }, question.name),
      ]);
    } catch (error) {
      if (!(error instanceof SyscallError) || error.errno !== EEXIST) throw error;
      if (end === "expire" && staysHeld) {
        this.#state = startHold(true, undefined);
        return this.#do("confirm");
      }
      return this.#do("keep");
    }
    removeRouting(kernel, ownRouting(parts, live, question.tag));
    this.#end(end);
  }
}
