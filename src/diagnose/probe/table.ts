/**
 * The probe's own firewall table: a counter at each hop of its packets, and nothing that touches
 * others. It belongs to the probe's netlink socket and goes with it. Pure.
 *
 * A packet that would leave this host past the proxy is counted and dropped: a probe sends nothing
 * to the address that it asks for.
 */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import {
  NF_ACCEPT,
  NF_DROP,
  NF_INET_FORWARD,
  NF_INET_LOCAL_IN,
  NF_INET_LOCAL_OUT,
  NF_INET_POST_ROUTING,
  NF_INET_PRE_ROUTING,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_TABLE_F_OWNER,
} from "../../../ffi/netlink/constants.ts";
import { newChain } from "../../../ffi/netlink/nftables/chain.ts";
import { counter } from "../../../ffi/netlink/nftables/expr/counter.ts";
import { immediate, verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { metaSet, NFT_META_NFTRACE } from "../../../ffi/netlink/nftables/expr/meta.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  address,
  family as familyIs,
  inputInterface,
  outputInterface,
  ports,
  protocol,
  type Side,
  setMark,
  tproxyTo,
} from "../../../ffi/netlink/nftables/statements.ts";
import { newTable } from "../../../ffi/netlink/nftables/table.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import type { Address } from "../../net/address.ts";
import { fullMask } from "../../net/mark.ts";
import type { TproxyTarget } from "../nft-evaluator/hooks.ts";

export const probeTable = "tproxyd_probe";

/** Whose packets are counted. */
export interface ProbedFlow {
  readonly protocol: "tcp" | "udp";
  readonly destination: Address;
  readonly port: number;
  /** The probe's interface on this host. */
  readonly iif: string;
}

/** Treatment of the probe in place of rules that match another interface only. */
export interface StandIn {
  readonly mark: number;
  readonly tproxy: TproxyTarget | undefined;
}

/** The hops of a packet and of its answer, in their order; each has a chain of its own. */
export const hops = [
  "arrival",
  "prerouted",
  "forwarded",
  "delivered",
  "accepted",
  "answered",
  "sent",
] as const;
export type Hop = (typeof hops)[number];

const hooks: Readonly<Record<Hop, readonly [hook: number, priority: number, side: Side]>> = {
  arrival: [NF_INET_PRE_ROUTING, -450, "destination"],
  prerouted: [NF_INET_PRE_ROUTING, 1000, "destination"],
  forwarded: [NF_INET_FORWARD, -1000, "destination"],
  delivered: [NF_INET_LOCAL_IN, -1000, "destination"],
  accepted: [NF_INET_LOCAL_IN, 1000, "destination"],
  answered: [NF_INET_LOCAL_OUT, -1000, "source"],
  sent: [NF_INET_POST_ROUTING, 1000, "source"],
};

/** `meta nftrace set 1` */
const trace = [immediate(Uint8Array.of(1)), metaSet(NFT_META_NFTRACE)];

/** After mangle's rules, where a capture has its own: NF_IP_PRI_MANGLE + 1. */
const standInPriority = -149;

/** The messages of one batch that makes the table. */
export function probeTableMessages(flow: ProbedFlow, standIn: StandIn | undefined): Message[] {
  const messages = [
    newTable({ family: NFPROTO_INET, name: probeTable, flags: NFT_TABLE_F_OWNER }),
    ...hops.flatMap((hop) => {
      const [hook, priority, side] = hooks[hop];
      const ending = hop === "forwarded" ? [verdict(NF_DROP)] : [];
      const device = hop === "answered" ? [] : deviceOf(flow, side);
      // From here on the kernel reports each rule that the packet meets.
      const traced = hop === "arrival" || hop === "answered" ? trace : [];
      return chainWith(hop, hook, priority, [
        ...device,
        ...matches(flow, side),
        ...traced,
        counter(),
        ...ending,
      ]);
    }),
  ];
  if (standIn === undefined) return messages;
  const { mark, tproxy } = standIn;
  const expressions = [
    ...deviceOf(flow, "destination"),
    ...matches(flow, "destination"),
    ...setMark(mark, fullMask),
    ...(tproxy === undefined ? [] : tproxyTo(tproxy.port, tproxy.address)),
  ];
  const [hook] = hooks.arrival;
  return [...messages, ...chainWith("standin", hook, standInPriority, expressions)];
}

function chainWith(
  chain: string,
  hook: number,
  priority: number,
  expressions: readonly Expression[],
): Message[] {
  const base = { type: "filter", hook, priority, policy: NF_ACCEPT };
  return [
    newChain({ family: NFPROTO_INET, table: probeTable, name: chain, base }),
    newFirewallRule({ family: NFPROTO_INET, table: probeTable, chain, expressions }),
  ];
}

function deviceOf({ iif }: ProbedFlow, side: Side): readonly Expression[] {
  return side === "destination" ? inputInterface(iif) : outputInterface(iif);
}

/** Packets to the destination, or answers from it. */
function matches(flow: ProbedFlow, side: Side): readonly Expression[] {
  const { destination, port } = flow;
  return [
    ...familyIs(destination.family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6),
    ...protocol(flow.protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP),
    ...address(side, { address: destination.bytes, length: 8 * destination.bytes.length }),
    ...ports(side, [port, port]),
  ];
}
