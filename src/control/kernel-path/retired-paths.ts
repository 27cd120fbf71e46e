/**
 * Rules of the kernel path that another process has left, whose services the relay carries now:
 * they take no new connections, and established ones go on as long as this process lives.
 */

import { SyscallError } from "../../../ffi/errno.ts";
import { deleteTable } from "../../../ffi/netlink/nftables/table.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { anchorPlan } from "../../capture/kernel-path/drain.ts";
import { flowMark } from "../../capture/kernel-path/intent.ts";
import { firewallBatch } from "../../capture/live/apply.ts";
import { partsOf } from "../../capture/live/desired-state.ts";
import { interfaceIndex, type Kernel, openKernel } from "../../capture/live/kernel.ts";
import { exclusively } from "../../capture/live/lock.ts";
import { drainingName } from "../../capture/live/names.ts";
import { renameInSysctls, restoreSysctls } from "../../capture/live/sysctls.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import type { MaskedMark } from "../../net/mark.ts";
import { explained } from "../apply-rules.ts";
import { isPredecessor, type LeftPath, leftPaths, leftText } from "./left-tables.ts";

export class RetiredPaths {
  private readonly left: readonly LeftPath[];
  /** Undefined: the rules are in force yet. */
  private name: string | undefined;
  /** Owns the table, unless the relay's rules came in the same transaction. */
  private kernel: Kernel | undefined;

  private constructor(left: readonly LeftPath[]) {
    this.left = left;
  }

  /**
   * What a process has left that listened at any of these; undefined: nothing.
   * @throws CommandError
   */
  static async find(
    listeners: readonly string[],
    spell: SettingWords,
  ): Promise<RetiredPaths | undefined> {
    return await explained("apply", spell, () => {
      const kernel = openKernel();
      try {
        const left = leftPaths(kernel).filter((each) => isPredecessor(each, { listeners }));
        return left.length === 0 ? undefined : new RetiredPaths(left);
      } finally {
        kernel.close();
      }
    });
  }

  /** The marks of connections that the kernel goes on to carry. */
  get marks(): readonly MaskedMark[] {
    return this.left.flatMap(({ services }) => services.map(({ number }) => flowMark(number)));
  }

  /** The messages by which the rules take no new connections, in a batch of this kernel's. */
  messages(kernel: Kernel): readonly Message[] {
    this.name = drainingName(this.left[0]?.name ?? "", kernel.netfilter.portId);
    const services = this.left.flatMap((each) => each.services);
    const plan = anchorPlan(services, this.name);
    const parts = partsOf(plan, (each) => interfaceIndex(kernel, each));
    return [
      ...this.left.flatMap(({ tables }) => tables.map(deleteTable)),
      ...firewallBatch(parts, { tables: [] }, { owned: true }),
    ];
  }

  /**
   * Retires the rules if that was not done with those of the relay; the changes, a line each.
   * @throws CommandError
   */
  async retire(spell: SettingWords): Promise<readonly string[]> {
    if (this.name === undefined) {
      const kernel = openKernel();
      this.kernel = kernel;
      const work = () => void kernel.netfilter.batch(this.messages(kernel));
      await explained("apply", spell, () => exclusively(kernel, work));
    }
    for (const each of this.left) renameInSysctls(each.name, this.name ?? "");
    return this.left.map(
      (each) => `- ${leftText(each)} takes no new connections; those that it carries go on`,
    );
  }

  /** The end of this process, and of the connections. */
  close(): void {
    const { name } = this;
    if (name === undefined) return;
    const kernel = this.kernel ?? openKernel();
    const restore = () => restoreSysctls(kernel, (by) => by === name);
    exclusively(kernel, restore, true);
    kernel.close();
  }
}

/** Lines about what a process has left that listened at any of these; none if it is not seen. */
export function leftInTheWay(listeners: readonly string[]): readonly string[] {
  try {
    const kernel = openKernel();
    try {
      return leftPaths(kernel)
        .filter((each) => isPredecessor(each, { listeners }))
        .map((each) => `${leftText(each)} is in the way: "tproxy routes --remove" removes it`);
    } finally {
      kernel.close();
    }
  } catch (error) {
    if (error instanceof SyscallError) return [];
    throw error;
  }
}
