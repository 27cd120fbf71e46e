/** Where the demo plays: hosts that are network namespaces, and a cable between them. */

import { readFileSync, writeFileSync } from "node:fs";
import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { decodeAddress, dumpAddresses, newAddress } from "../../ffi/netlink/address.ts";
import {
  IFA_F_NODAD,
  IFA_F_TENTATIVE,
  RT_SCOPE_LINK,
  RT_TABLE_MAIN,
  RTN_UNICAST,
  RTPROT_BOOT,
} from "../../ffi/netlink/constants.ts";
import { decodeLink, getLink, newVeth, setLink } from "../../ffi/netlink/link.ts";
import { newRoute } from "../../ffi/netlink/route.ts";
import type { Message } from "../../ffi/netlink/wire.ts";
import { NetworkNamespace } from "../../ffi/netns.ts";
import { RoutingControl } from "../capture/live/execute.ts";
import type { Address } from "../net/address.ts";
import { waitFor } from "./wait.ts";

/** The interface of both ends of the cable. */
export const cableInterface = "eth0";
const LOOPBACK_INDEX = 1;
/** How long the kernel may take until both ends of a new cable can be sent through. */
const plugMs = 3_000;

/**
 * A new namespace has the machine's IPv4 settings, not the kernel's defaults. These are what the
 * demo's way of a packet depends on.
 */
const settings: Readonly<Record<string, string>> = {
  "ipv4/ip_forward": "0",
  "ipv4/ip_nonlocal_bind": "0",
  ...Object.fromEntries(
    ["all", "default", "lo"].flatMap((name) => [
      [`ipv4/conf/${name}/rp_filter`, "0"],
      [`ipv4/conf/${name}/src_valid_mark`, "0"],
    ]),
  ),
  "ipv6/conf/all/disable_ipv6": "0",
  "ipv6/conf/default/disable_ipv6": "0",
  "ipv6/conf/all/forwarding": "0",
  // Else a cable's link-local address, which asks for neighbours, is not usable for 2 seconds.
  "ipv6/conf/default/accept_dad": "0",
};

/** A network namespace with lo up and nothing else, and the netlink sockets to furnish it. */
export class Host {
  readonly namespace: NetworkNamespace;
  readonly control: RoutingControl;

  private constructor(namespace: NetworkNamespace, control: RoutingControl) {
    this.namespace = namespace;
    this.control = control;
  }

  /** @throws SyscallError EPERM without CAP_SYS_ADMIN */
  static create(): Host {
    const namespace = NetworkNamespace.create();
    try {
      const control = namespace.run(() => {
        for (const [name, value] of Object.entries(settings)) setSysctl(name, value);
        return RoutingControl.open();
      });
      const host = new Host(namespace, control);
      // While lo has never been up, any address can be bound: the negative tests need this.
      host.request(setLink(LOOPBACK_INDEX, { up: true }));
      return host;
    } catch (error) {
      namespace.close();
      throw error;
    }
  }

  /** Runs a synchronous function inside. */
  run<T>(inside: () => T extends PromiseLike<unknown> ? never : T): T {
    return this.namespace.run(inside);
  }

  /** Sends one rtnetlink request. @throws NetlinkError */
  request(message: Message): void {
    this.control.route.request(message);
  }

  /** A route to one address by an interface, as `ip route add ADDRESS dev IFACE src SOURCE`. */
  addHostRoute(to: Address, device: string, source: Address): void {
    this.request(
      newRoute({
        ...mainRoute(to),
        destination: { address: to.bytes, length: to.bytes.length * 8 },
        oif: this.control.interfaceIndex(device),
        preferredSource: source.bytes,
      }),
    );
  }

  /** Takes an end of the cable into use; returns a function that tells whether it can send. */
  plug({ address, prefixLength }: CableEnd): () => boolean {
    const index = this.control.interfaceIndex(cableInterface);
    this.request(setLink(index, { up: true }));
    // An IPv6 address is usable at once only if nobody asks first whether others have it.
    const flags = address.family === 6 ? { flags: IFA_F_NODAD } : {};
    this.request(newAddress({ index, address: address.bytes, prefixLength, ...flags }));
    return () =>
      this.control.route.get(getLink({ index }), decodeLink).running &&
      (address.family === 4 || this.hasLinkLocal(index));
  }

  /** Whether the interface has a link-local address in use: neighbours are asked from it. */
  private hasLinkLocal(of: number): boolean {
    return this.control.route
      .dump(dumpAddresses(AF_INET6), decodeAddress)
      .some(
        ({ index, scope, flags = 0 }) =>
          index === of && scope === RT_SCOPE_LINK && (flags & IFA_F_TENTATIVE) === 0,
      );
  }

  close(): void {
    this.control.close();
    this.namespace.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** An end of the cable: its address and the length of the prefix that both ends share. */
export interface CableEnd {
  readonly address: Address;
  readonly prefixLength: number;
}

/** A client and the box that it is routed through, with a veth cable between them. */
export class Veth {
  readonly box = Host.create();
  readonly client = Host.create();

  private constructor() {}

  /**
   * Lays the cable: the addresses of both ends, and the client's default route to the box.
   * @throws NetlinkError, Interrupted
   */
  static async lay(box: CableEnd, client: CableEnd, signal: AbortSignal): Promise<Veth> {
    const cable = new Veth();
    try {
      cable.box.request(newVeth(cableInterface, cableInterface, cable.client.namespace.fd));
      const ends = [cable.box.plug(box), cable.client.plug(client)];
      // A packet sent before that is lost, and sent again after a second.
      await waitFor(() => ends.every((isRunning) => isRunning()) || undefined, plugMs, signal);
      const route = { ...mainRoute(box.address), gateway: box.address.bytes };
      cable.client.request(newRoute(route));
      return cable;
    } catch (error) {
      cable.close();
      throw error;
    }
  }

  close(): void {
    this.client.close();
    this.box.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function mainRoute({ family }: Address) {
  return {
    family: family === 4 ? AF_INET : AF_INET6,
    type: RTN_UNICAST,
    table: RT_TABLE_MAIN,
    protocol: RTPROT_BOOT,
  };
}

/** Sets what can be set; where /proc/sys is read-only or has no such file, it stays as it is. */
function setSysctl(name: string, value: string): void {
  const path = `/proc/sys/net/${name}`;
  try {
    if (readFileSync(path, "latin1").trim() !== value) writeFileSync(path, value);
  } catch {
    // The claims of the acts show whether it mattered.
  }
}
