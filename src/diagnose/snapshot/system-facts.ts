/** Facts of this process and system that matter to a transparent proxy. I/O, and no judgement. */

import { RLIMIT_NOFILE } from "../../../ffi/constants.ts";
import { ENODATA, SyscallError } from "../../../ffi/errno.ts";
import { NETLINK_NETFILTER, NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import { decodeTable, dumpTables } from "../../../ffi/netlink/nftables/table.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import * as sys from "../../../ffi/sys.ts";
import { leftTables } from "../../capture/live/left-tables.ts";
import { isStatic } from "../../version.ts";
import type { Need } from "../checks/privileges.ts";
import { heldCapabilities } from "./capabilities.ts";
import { type ConntrackFacts, readConntrack } from "./conntrack-facts.ts";
import { type Features, testFeatures } from "./features.ts";
import type { HostSnapshot } from "./host.ts";

export interface SystemFacts {
  /** Those in force, of the few that matter here. */
  readonly capabilities: ReadonlySet<string>;
  /** They count in this network namespace (`Held`). */
  readonly ownsNetwork: boolean;
  /** The proxy's needs, beside IP_TRANSPARENT and rules. */
  readonly needs: readonly Need[];
  /** Whether the executable carries capabilities; undefined if that cannot be read. */
  readonly fileCapabilities: boolean | undefined;
  readonly executable: string;
  /** Whether its runtime obeys environment variables such as BUN_OPTIONS. */
  readonly obeysVariables: boolean;
  readonly features: Features;
  readonly loUp: boolean;
  /** Numbers of /proc/sys by their name; absent ones do not exist or cannot be read. */
  readonly sysctls: ReadonlyMap<string, number>;
  readonly bridges: readonly string[];
  /** The most descriptors that this process may have; tproxy raises itself to that. */
  readonly descriptorsMax: number | undefined;
  /** Undefined where connection tracking is not in use. */
  readonly conntrack: ConntrackFacts | undefined;
  /** Firewall tables of the kernel path that a process has left in force; none if unreadable. */
  readonly left: readonly string[];
}

function readLeft(): readonly string[] {
  try {
    using netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
    const tables = netfilter.dump(dumpTables(NFPROTO_INET), decodeTable);
    return leftTables(tables).map(({ name }) => name);
  } catch (error) {
    if (error instanceof SyscallError) return [];
    throw error;
  }
}

const sysctlNames = [
  "net.ipv4.ip_forward",
  "net.ipv4.conf.all.src_valid_mark",
  "net.ipv4.conf.all.rp_filter",
  "net.ipv4.conf.all.accept_local",
  "net.ipv4.conf.all.route_localnet",
  "net.ipv4.ip_nonlocal_bind",
  "net.bridge.bridge-nf-call-iptables",
  "net.bridge.bridge-nf-call-ip6tables",
];

/** Gathers them. Tries the kernel's features in a private namespace that is gone afterwards. */
export function gatherSystem(machine: HostSnapshot, needs: readonly Need[]): SystemFacts {
  const held = heldCapabilities();
  const limit = sys.getrlimit(RLIMIT_NOFILE);
  const size = sys.getxattrSize("/proc/self/exe", "security.capability");
  const sysctls = sysctlNames.flatMap((name) => {
    const value = machine.sysctl(name);
    return value === undefined ? [] : [[name, value] as const];
  });
  return {
    capabilities: held.effective,
    ownsNetwork: held.ownsNetwork,
    needs,
    fileCapabilities: size > 0 ? true : size === -ENODATA ? false : undefined,
    executable: process.execPath,
    obeysVariables: !isStatic,
    features: testFeatures(),
    loUp: machine.links.some(({ loopback, up }) => loopback && up),
    sysctls: new Map(sysctls),
    bridges: machine.links.filter(({ kind }) => kind === "bridge").map(({ name }) => name),
    descriptorsMax: typeof limit === "number" ? undefined : limit.hard,
    conntrack: readConntrack(),
    left: readLeft(),
  };
}
