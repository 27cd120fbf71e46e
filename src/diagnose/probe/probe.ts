/**
 * A probe: a real SYN or datagram from a client in a namespace of its own, over a veth, to this
 * host, and how far it came by the kernel's own counters.
 *
 * Nothing of it outlives the process, however that ends: the client's end of the veth is in a
 * namespace without a name, so the pair and its addresses and routes die with the descriptor, and
 * the firewall table belongs to a netlink socket. Addresses are taken from networks that no route
 * here knows. Packets that would be routed on are dropped.
 */

import { readFileSync } from "node:fs";
import {
  AF_INET,
  AF_INET6,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SO_ERROR,
  SOL_SOCKET,
} from "../../../ffi/constants.ts";
import { ECONNREFUSED, SyscallError } from "../../../ffi/errno.ts";
import { sockaddr_storage } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import { newAddress } from "../../../ffi/netlink/address.ts";
import {
  IFA_F_NODAD,
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NFNLGRP_NFTRACE,
  NFPROTO_INET,
  RT_TABLE_MAIN,
  RTN_UNICAST,
  RTPROT_BOOT,
} from "../../../ffi/netlink/constants.ts";
import { decodeLink, deleteLink, getLink, newVeth, setLink } from "../../../ffi/netlink/link.ts";
import { NetlinkMonitor } from "../../../ffi/netlink/monitor.ts";
import {
  counterOf,
  decodeFirewallRule,
  dumpFirewallRules,
} from "../../../ffi/netlink/nftables/rule.ts";
import { decodeTraceStep, type TraceStep } from "../../../ffi/netlink/nftables/trace.ts";
import { newRoute } from "../../../ffi/netlink/route.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { NetworkNamespace } from "../../../ffi/netns.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { bindSocket, startConnect } from "../../engine/sockets.ts";
import type { Address } from "../../net/address.ts";
import { type KernelCounters, parseCounters } from "../snapshot/counters.ts";
import type { ProbeAddresses } from "./addresses.ts";
import {
  type Hop,
  hops,
  type ProbedFlow,
  probeTable,
  probeTableMessages,
  type StandIn,
} from "./table.ts";

/** The probe's interface on this host; its other end has the same name where it is. */
export const probeInterface = "tproxyprobe";

/** How long an answer is waited for: the first SYN, and one more a second later. */
const timeoutMs = 1_500;
const pollMs = 2;
const LOOPBACK_INDEX = 1;

/** A probe's observations, without the judgement of the rules. */
export interface ProbeResult {
  readonly counts: Readonly<Record<Hop, number>>;
  readonly outcome: "connected" | "refused" | "timeout" | "answered" | "sent";
  readonly moved: readonly string[];
  /** The rules that the packet and its answer met, as far as the kernel reports them. */
  readonly steps: readonly TraceStep[];
}

const peerName = allocate(sockaddr_storage.size);
const payload = allocate(16);

/** The stage of one probe. Dispose of it, or die: it is gone in either case. */
export class Probe {
  private readonly namespace: NetworkNamespace;
  private readonly route: NetlinkSocket;
  private readonly netfilter: NetlinkSocket;
  private readonly addresses: ProbeAddresses;
  private readonly tracer: NetlinkMonitor;
  private hasCable = false;

  /** Puts up the veth. @throws SyscallError EPERM without privileges, EEXIST while another runs */
  constructor(addresses: ProbeAddresses) {
    this.addresses = addresses;
    this.namespace = NetworkNamespace.create();
    this.route = NetlinkSocket.open(NETLINK_ROUTE);
    this.netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
    this.tracer = NetlinkMonitor.open(NETLINK_NETFILTER, [NFNLGRP_NFTRACE]);
    try {
      this.route.request(newVeth(probeInterface, probeInterface, this.namespace.fd));
      this.hasCable = true;
      plug(this.route, addresses.host, addresses.prefixLength);
      this.namespace.run(() => {
        using route = NetlinkSocket.open(NETLINK_ROUTE);
        route.request(setLink(LOOPBACK_INDEX, { up: true }));
        plug(route, addresses.client, addresses.prefixLength);
        const { host } = addresses;
        const family = host.family === 4 ? AF_INET : AF_INET6;
        const main = { family, type: RTN_UNICAST, table: RT_TABLE_MAIN, protocol: RTPROT_BOOT };
        route.request(newRoute({ ...main, gateway: host.bytes }));
      });
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Makes the table with the counters. @throws SyscallError */
  watch(flow: ProbedFlow, standIn: StandIn | undefined): void {
    this.netfilter.batch(probeTableMessages(flow, standIn));
  }

  /** Sends the packet and waits for what comes of it, or until `signal`. @throws SyscallError */
  async send(flow: ProbedFlow, signal: AbortSignal): Promise<ProbeResult> {
    const before = readCounters();
    const { protocol, destination, port } = flow;
    const { client } = this.addresses;
    const fd = this.namespace.run(() => {
      const local = { address: client.bytes, port: 0, scopeId: 0 };
      const made = bindSocket({ protocol, transparent: false }, local);
      startConnect(made, { address: destination.bytes, port, scopeId: 0 });
      return made;
    });
    try {
      if (protocol === "udp") sys.send(fd, payload.address, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
      const outcome = await outcomeOf(fd, protocol, signal);
      const moved = countersMoved(before, readCounters());
      return { counts: this.counts(), outcome, moved, steps: this.steps() };
    } finally {
      // A reset: neither side is left with half a connection to an address that goes away.
      if (protocol === "tcp") sys.setLinger(fd, true, 0);
      sys.close(fd);
    }
  }

  close(): void {
    try {
      if (this.hasCable) this.route.request(deleteLink({ name: probeInterface }));
    } catch (error) {
      // Somebody else has removed it.
      if (!(error instanceof SyscallError)) throw error;
    } finally {
      this.netfilter.close();
      this.tracer.close();
      this.route.close();
      this.namespace.close();
    }
  }

  /** Trace ids of the probe's own packets: others may be traced as well. */
  private steps(): TraceStep[] {
    const all = this.tracer.read().flatMap((message) => decodeTraceStep(message) ?? []);
    const own = new Set(all.filter(({ table }) => table === probeTable).map(({ id }) => id));
    return all.filter(({ id }) => own.has(id));
  }

  private counts(): Record<Hop, number> {
    const count = (chain: Hop) => {
      const reference = { family: NFPROTO_INET, table: probeTable, chain };
      const [rule] = this.netfilter.dump(dumpFirewallRules(reference), decodeFirewallRule);
      return Number((rule === undefined ? undefined : counterOf(rule))?.packets ?? 0n);
    };
    return Object.fromEntries(hops.map((hop) => [hop, count(hop)])) as Record<Hop, number>;
  }
}

function plug(route: NetlinkSocket, address: Address, prefixLength: number): void {
  const { index } = route.get(getLink({ name: probeInterface }), decodeLink);
  const flags = address.family === 6 ? { flags: IFA_F_NODAD } : {};
  route.request(newAddress({ index, address: address.bytes, prefixLength, ...flags }));
  route.request(setLink(index, { up: true }));
}

async function outcomeOf(
  fd: Fd,
  protocol: "tcp" | "udp",
  signal: AbortSignal,
): Promise<ProbeResult["outcome"]> {
  const deadline = performance.now() + timeoutMs;
  while (!signal.aborted && performance.now() < deadline) {
    const error = sys.getsockopt(fd, SOL_SOCKET, SO_ERROR);
    if (error === ECONNREFUSED) return "refused";
    if (error !== 0) return "timeout";
    if (protocol === "udp") {
      if (sys.recv(fd, payload.address, payload.size, MSG_DONTWAIT) >= 0) return "answered";
    } else if (sys.getpeername(fd, peerName.address, peerName.size) >= 0) return "connected";
    await Bun.sleep(pollMs);
  }
  return protocol === "udp" ? "sent" : "timeout";
}

/** Counters of lost packets, of the whole namespace and not of the probe alone. */
const telling = new Set([
  ...["IpInAddrErrors", "IpExtInNoRoutes", "IpOutNoRoutes"],
  ...["Ip6InAddrErrors", "Ip6InNoRoutes", "Ip6OutNoRoutes"],
  ...["TcpExtIPReversePathFilter", "TcpExtListenDrops", "TcpOutRsts"],
  ...["UdpNoPorts", "UdpInDatagrams", "Udp6NoPorts", "Udp6InDatagrams"],
]);

function countersMoved(before: KernelCounters, after: KernelCounters): string[] {
  return [...after].flatMap(([name, value]) => {
    const moved = value - (before.get(name) ?? 0);
    return telling.has(name) && moved > 0 ? [`${name} +${moved}`] : [];
  });
}

function readCounters(): KernelCounters {
  const read = (file: string) => {
    try {
      return readFileSync(`/proc/thread-self/net/${file}`, "latin1");
    } catch {
      return "";
    }
  };
  return parseCounters(["snmp", "netstat", "snmp6"].map(read).join("\n"));
}
