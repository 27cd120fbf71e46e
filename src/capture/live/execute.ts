/** Carries out the steps of a Plan in the kernel, by netlink and nothing else. */

import { NETLINK_NETFILTER, NETLINK_ROUTE } from "../../../ffi/netlink/constants.ts";
import { decodeLink, getLink } from "../../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { stepMessages } from "../plan/netlink.ts";
import type { Step } from "../plan/steps.ts";

/** The two netlink sockets that a Plan needs, in the network namespace they were opened in. */
export class RoutingControl {
  readonly route: NetlinkSocket;
  readonly netfilter: NetlinkSocket;

  private constructor(route: NetlinkSocket, netfilter: NetlinkSocket) {
    this.route = route;
    this.netfilter = netfilter;
  }

  /** Opens them in the thread's current namespace. @throws SyscallError */
  static open(): RoutingControl {
    const route = NetlinkSocket.open(NETLINK_ROUTE);
    try {
      return new RoutingControl(route, NetlinkSocket.open(NETLINK_NETFILTER));
    } catch (error) {
      route.close();
      throw error;
    }
  }

  /**
   * Carries out one step.
   * @throws NetlinkError: EEXIST for what is there already, EPERM without CAP_NET_ADMIN
   */
  perform(step: Step): void {
    const { protocol, messages } = stepMessages(step, {
      interfaceIndex: (name) => this.interfaceIndex(name),
      counters: true,
    });
    if (protocol === "netfilter") this.netfilter.batch(messages);
    else for (const message of messages) this.route.request(message);
  }

  /** The index of an interface. @throws NetlinkError ENODEV */
  interfaceIndex(name: string): number {
    return this.route.get(getLink({ name }), decodeLink).index;
  }

  close(): void {
    this.route.close();
    this.netfilter.close();
  }
}
