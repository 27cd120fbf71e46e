/** Watches one attempt to connect and gathers what `path.ts` judges by. */

import { readFileSync } from "node:fs";
import { AF_INET, AF_INET6, IP_TRANSPARENT, IPPROTO_IP } from "../../../ffi/constants.ts";
import { SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET, RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { NFT_META_MARK } from "../../../ffi/netlink/nftables/expr/meta.ts";
import {
  counterOf,
  decodeFirewallRule,
  dumpFirewallRules,
} from "../../../ffi/netlink/nftables/rule.ts";
import { decodeRoute, dumpRoutes, getRoute, type Route } from "../../../ffi/netlink/route.ts";
import { decodeRule, dumpRules } from "../../../ffi/netlink/rule.ts";
import type { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import type { Address } from "../../net/address.ts";
import { formatAddress } from "../../net/address.ts";
import { cidrContains } from "../../net/cidr.ts";
import type { MaskedMark } from "../../net/mark.ts";
import {
  counterNames,
  countersMoved,
  hasListener,
  type KernelCounters,
  parseCounters,
} from "../snapshot/counters.ts";
import {
  type PathObservations,
  type RouteAnswer,
  type SelectingRule,
  selectsMark,
} from "./path.ts";

/** Whose way is watched, and what should happen to it. */
export interface PathQuestion {
  readonly client: Address;
  readonly destination: Address;
  readonly port: number;
  /** The index of the interface where it arrives. */
  readonly iif: number;
  readonly mark: MaskedMark;
  /** The chain, of the family inet, whose rules set the mark. */
  readonly firewall: { readonly table: string; readonly chain: string };
}

/** The netlink sockets of the namespace that is watched. */
export interface PathSockets {
  readonly route: NetlinkSocket;
  readonly netfilter: NetlinkSocket;
}

/** One watched attempt. Both calls have to be made in the namespace of the sockets. */
export class PathWatch {
  private readonly sockets: PathSockets;
  private readonly question: PathQuestion;
  private readonly counters: KernelCounters;
  private readonly packets: number;

  /** Notes the counters as they are before the attempt. @throws SyscallError */
  constructor(sockets: PathSockets, question: PathQuestion) {
    this.sockets = sockets;
    this.question = question;
    this.counters = readCounters();
    this.packets = this.marking().packets;
  }

  /** The observations of the attempt. `listener` is the socket that should accept it, if any. */
  observe(connected: boolean, listener: Fd | undefined): PathObservations {
    const { destination, port, mark } = this.question;
    const { family } = destination;
    const { rules, packets } = this.marking();
    return {
      family,
      destination: formatAddress(destination),
      port,
      mark,
      connected,
      marking: { rules, packets: packets - this.packets },
      unmarked: this.route(0),
      marked: this.route(mark.value),
      selecting: this.selecting(),
      listener: listens(port) ? { transparent: isTransparent(listener) } : undefined,
      counters: countersMoved(family, this.counters, readCounters()),
      counterNames: counterNames[family],
    };
  }

  private marking(): { rules: number; packets: number } {
    const chain = { family: NFPROTO_INET, ...this.question.firewall };
    const rules = this.sockets.netfilter
      .dump(dumpFirewallRules(chain), decodeFirewallRule)
      .filter(({ expressions }) =>
        expressions.some((each) => each.kind === "meta set" && each.key === NFT_META_MARK),
      );
    const packets = rules.reduce((sum, rule) => sum + Number(counterOf(rule)?.packets ?? 0n), 0);
    return { rules: rules.length, packets };
  }

  private route(mark: number): RouteAnswer {
    const { client, destination, iif } = this.question;
    const query = { destination: destination.bytes, source: client.bytes, iif, mark };
    try {
      const { type, table } = this.sockets.route.get(getRoute(query), decodeRoute);
      return { kind: "route", type, table };
    } catch (error) {
      if (error instanceof SyscallError) return { kind: "error", errno: error.errno };
      throw error;
    }
  }

  private selecting(): SelectingRule[] {
    const { destination, mark } = this.question;
    return this.sockets.route
      .dump(dumpRules(familyOf(destination)), decodeRule)
      .filter((rule) => selectsMark(rule, mark))
      .map(({ priority = 0, table }) => ({
        priority,
        table,
        hasLocalRoute: this.routes(table).some(
          (route) =>
            route.type === RTN_LOCAL && route.table === table && covers(route, destination),
        ),
      }));
  }

  /** The routes of a table; none if there is no such table, which is ENOENT. */
  private routes(table: number): Route[] {
    try {
      const family = familyOf(this.question.destination);
      return this.sockets.route.dump(dumpRoutes(family, table), decodeRoute);
    } catch (error) {
      if (error instanceof SyscallError) return [];
      throw error;
    }
  }
}

function familyOf({ family }: Address): number {
  return family === 4 ? AF_INET : AF_INET6;
}

function covers({ destination }: Route, address: Address): boolean {
  if (destination === undefined) return true;
  const { family } = address;
  return cidrContains({ family, bytes: destination.address, prefix: destination.length }, address);
}

/** The path in the thread's namespace, which may differ from that of /proc/self. */
function readNet(file: string): string {
  try {
    return readFileSync(`/proc/thread-self/net/${file}`, "latin1");
  } catch {
    // snmp6 and tcp6 are missing in a kernel without IPv6.
    return "";
  }
}

function readCounters(): KernelCounters {
  return parseCounters(["snmp", "netstat", "snmp6"].map(readNet).join("\n"));
}

function listens(port: number): boolean {
  return ["tcp", "tcp6"].some((file) => hasListener(readNet(file), port));
}

function isTransparent(listener: Fd | undefined): boolean | undefined {
  return listener === undefined
    ? undefined
    : sys.getsockopt(listener, IPPROTO_IP, IP_TRANSPARENT) === 1;
}
