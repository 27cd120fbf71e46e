/** The kernel settings that a set-up needs here: sets, keeps and restores them. */

import { SyscallError } from "../../ffi/errno.ts";
import { decodeLink, getLink } from "../../ffi/netlink/link.ts";
import { decodeRoute, getRoute } from "../../ffi/netlink/route.ts";
import type { Kernel } from "../capture/live/kernel.ts";
import { exclusively } from "../capture/live/lock.ts";
import {
  renameInSysctls,
  restoreSysctls,
  setSysctls,
  wrongSysctls,
} from "../capture/live/sysctls.ts";
import { acceptLocal, type Sysctl } from "../capture/plan/plan.ts";
import { readSysctl } from "../diagnose/snapshot/proc.ts";
import type { RoutesContext } from "./routes-context.ts";

export class KernelSettings {
  /** The settings of the Plan, and those that replies of its backends need on any way. */
  readonly wanted: readonly Sysctl[];
  readonly #kernel: Kernel;
  readonly #sets: boolean;
  #name: string;
  readonly #isGone: (by: string) => boolean;

  constructor({
    kernel,
    plan,
    live,
    question,
  }: Pick<RoutesContext, "kernel" | "plan" | "live" | "question">) {
    this.#kernel = kernel;
    this.#sets = plan.setsSysctls;
    this.#name = question.name;
    const replies = plan.backends
      .filter(({ address }) => address.family === 4)
      .flatMap(({ address }) => interfaceTo(kernel, address.bytes) ?? [])
      .filter((name) => name !== "lo")
      .map(acceptLocal)
      .filter((each) => plan.setsSysctls || isNeeded(each));
    const all = [...plan.sysctls, ...replies];
    this.wanted = [...new Map(all.map((each) => [each.name, each])).values()];
    const names = new Set(live.others.map(({ name }) => name));
    if (plan.setsSysctls || live.firewall !== undefined) names.add(question.name);
    this.#isGone = (by) => !names.has(by);
  }

  /** Those with another value. @throws SysctlError */
  wrong(): readonly Sysctl[] {
    return wrongSysctls(this.wanted);
  }

  /** Those of them without which the kernel drops what is captured as it is set now. */
  missed(): readonly Sysctl[] {
    return this.#sets ? [] : this.wrong().filter(isNeeded);
  }

  /**
   * Restores the settings of set-ups that are gone, and sets the wanted ones if the Plan sets any;
   * a line for each. The lock has to be held.
   * @throws SysctlError
   */
  set(): string[] {
    return [...restoreSysctls(this.#kernel, this.#isGone), ...this.keep()];
  }

  /**
   * Sets again what is no longer set, as of an interface that was made anew; a line for each.
   * @throws SysctlError
   */
  watch(): string[] {
    if (!this.#sets || this.wrong().length === 0) return [];
    return exclusively(this.#kernel, () => this.keep(), true);
  }

  /** From now on they are remembered for this name. The lock has to be held. @throws SysctlError */
  rename(name: string): void {
    if (this.#sets) renameInSysctls(this.#name, name);
    this.#name = name;
  }

  /** Restores the settings of this set-up, while the lock is held. @throws SysctlError */
  undo(): void {
    this.giveBack();
  }

  /** Restores the settings of this set-up; a line for each. @throws SysctlError */
  release(): string[] {
    return this.#sets ? exclusively(this.#kernel, () => this.giveBack(), true) : [];
  }

  private keep(): string[] {
    return this.#sets ? setSysctls(this.#kernel, this.wanted, this.#name) : [];
  }

  private giveBack(): string[] {
    return this.#sets ? restoreSysctls(this.#kernel, (by) => by === this.#name) : [];
  }
}

/** Whether accept_local=1 is needed: the kernel looks up sources with the mark (src_valid_mark). */
function isNeeded({ name }: Sysctl): boolean {
  const own = name.replace(/accept_local$/, "src_valid_mark");
  return readSysctl("net.ipv4.conf.all.src_valid_mark") === 1 || readSysctl(own) === 1;
}

/** The interface by which packets to an IPv4 address leave; undefined without a route. */
function interfaceTo(kernel: Kernel, destination: Uint8Array): string | undefined {
  try {
    const { oif } = kernel.route.get(getRoute({ destination }), decodeRoute);
    if (oif === undefined) return undefined;
    return kernel.route.get(getLink({ index: oif }), decodeLink).name;
  } catch (error) {
    if (error instanceof SyscallError) return undefined;
    throw error;
  }
}
