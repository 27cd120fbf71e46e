/**
 * The interfaces of the flowtable, which follow those of this host. The kernel forgets an interface
 * that goes; one that comes, in its place or for the first time, has to be named to it.
 */

import { EOPNOTSUPP, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET, NFT_FLOWTABLE_COUNTER } from "../../../ffi/netlink/constants.ts";
import { decodeLink, dumpLinks } from "../../../ffi/netlink/link.ts";
import { newFlowtable } from "../../../ffi/netlink/nftables/flowtable.ts";
import { NetlinkError } from "../../../ffi/netlink/socket.ts";
import type { PathIntent } from "../../capture/kernel-path/intent.ts";
import { flowtableName } from "../../capture/kernel-path/plan.ts";
import { hasFlowtables, readFlowtable } from "../../capture/live/flowtables.ts";
import type { Kernel } from "../../capture/live/kernel.ts";

type Channels = Pick<Kernel, "route" | "netfilter">;
type Say = (line: string) => void;

/** The most interfaces that a flowtable has (NFT_NETDEVICE_MAX). */
const devicesMax = 256;

/** The interfaces at which flows may be picked up: ports of bridges and bonds are not. */
export function flowtableLinks({ route }: Pick<Kernel, "route">): string[] {
  return route
    .dump(dumpLinks(), decodeLink)
    .filter(({ up, loopback, master }) => up && !loopback && master === undefined)
    .map(({ name }) => name)
    .slice(0, devicesMax);
}

/** Whether any service of an intent wants the flowtable. */
export function wantsFlowtable({ services }: Pick<PathIntent, "services">): boolean {
  return services.some(({ offload }) => offload);
}

export class FlowtableLinks {
  private readonly kernel: Channels;
  private readonly say: Say;
  /** Unknown until the kernel has refused one. */
  private isLacking = false;

  constructor(kernel: Channels, say: Say) {
    this.kernel = kernel;
    this.say = say;
  }

  /**
   * Puts rules in place: with the flowtable where that can be, and otherwise without it. An
   * interface that went meanwhile is no reason to be without it.
   * @throws what `put` throws for other reasons
   */
  with<T>(intent: PathIntent, put: (intent: PathIntent) => T): T {
    const without = { ...intent, offload: [] };
    if (this.isLacking || intent.offload.length === 0) return put(without);
    try {
      return put(intent);
    } catch (error) {
      if (!isRefusal(error)) throw error;
    }
    if (!hasFlowtables(this.kernel.netfilter)) {
      this.isLacking = true;
      this.say("the kernel has no flowtables here: connections are carried without one");
      return put(without);
    }
    try {
      return put({ ...intent, offload: flowtableLinks(this.kernel) });
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.say(`connections are carried without a flowtable for now: ${error.message}`);
      return put(without);
    }
  }

  /**
   * Names to the flowtable of a table the interfaces that it lacks. Returns false where there is
   * no flowtable and there could be one: the rules have to be made anew for it.
   */
  follow(table: string): boolean {
    if (this.isLacking) return true;
    try {
      const links = flowtableLinks(this.kernel);
      const { netfilter } = this.kernel;
      const flowtable = readFlowtable(netfilter, table, flowtableName);
      if (flowtable === undefined) return links.length === 0;
      const devices = links.filter((each) => !flowtable.devices.includes(each));
      if (devices.length === 0) return true;
      const reference = { family: NFPROTO_INET, table, name: flowtableName, priority: 0 };
      netfilter.batch([newFlowtable({ ...reference, devices, flags: NFT_FLOWTABLE_COUNTER })]);
      this.say(`the flowtable has ${devices.join(", ")} from now on`);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      // One that has gone since makes an event of its own, at which this is tried again.
      if (!isRefusal(error)) this.say(`interfaces are missing in the flowtable: ${error.message}`);
    }
    return true;
  }
}

/** The kernel has no flowtables, or an interface has gone. */
function isRefusal(error: unknown): error is NetlinkError {
  if (!(error instanceof NetlinkError)) return false;
  return ["ENOENT", "ENODEV"].includes(error.code) || error.errno === EOPNOTSUPP;
}
