/** The firewall rules of a Plan as expressions of nf_tables. Pure. */

import {
  IFNAMSIZ,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
} from "../../../ffi/constants.ts";
import * as nl from "../../../ffi/netlink/constants.ts";
import { bitwise } from "../../../ffi/netlink/nftables/expr/bitwise.ts";
import { compare, NFT_CMP_EQ, NFT_CMP_NEQ } from "../../../ffi/netlink/nftables/expr/cmp.ts";
import { counter } from "../../../ffi/netlink/nftables/expr/counter.ts";
import { fibType, NFTA_FIB_F_DADDR } from "../../../ffi/netlink/nftables/expr/fib.ts";
import { immediate, verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { lookup, NFT_LOOKUP_F_INV } from "../../../ffi/netlink/nftables/expr/lookup.ts";
import {
  meta,
  NFT_META_IIFNAME,
  NFT_META_OIFNAME,
  NFT_META_SKGID,
  NFT_META_SKUID,
} from "../../../ffi/netlink/nftables/expr/meta.ts";
import {
  NFT_PAYLOAD_TRANSPORT_HEADER,
  payload,
} from "../../../ffi/netlink/nftables/expr/payload.ts";
import { redirect } from "../../../ffi/netlink/nftables/expr/redir.ts";
import { socketControlGroup } from "../../../ffi/netlink/nftables/expr/socket.ts";
import { tproxy } from "../../../ffi/netlink/nftables/expr/tproxy.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import {
  hostOrder32,
  hostOrder64,
  networkOrder16,
} from "../../../ffi/netlink/nftables/registers.ts";
import {
  intervalElements,
  type KeyRange,
  type NamedSet,
  newElements,
  newSet,
  type SetElement,
  TYPE_FIB_ADDR,
  TYPE_IFNAME,
  TYPE_INET_SERVICE,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../../ffi/netlink/nftables/set.ts";
import * as nft from "../../../ffi/netlink/nftables/statements.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { loopbackOf } from "../../net/address.ts";
import { addressBits } from "../../net/cidr.ts";
import { flowMatchExpressions, flowStatementExpressions } from "./flow-netlink.ts";
import { rangesOf } from "./networks.ts";
import type { AddressType, FirewallRule, Match, Statement } from "./plan.ts";

/** The values of a Plan that only the host where it is applied can give. */
interface RuleOptions {
  readonly counters: boolean;
  readonly cgroupId?: ((path: string) => bigint) | undefined;
}

const nfproto = { 4: nl.NFPROTO_IPV4, 6: nl.NFPROTO_IPV6 } as const;
/** Numbers of protocols, as IP headers have them. */
export const ipProtocols = { tcp: IPPROTO_TCP, udp: IPPROTO_UDP } as const;
const addressTypes: Readonly<Record<AddressType, number>> = {
  local: nl.RTN_LOCAL,
  broadcast: nl.RTN_BROADCAST,
  anycast: nl.RTN_ANYCAST,
  multicast: nl.RTN_MULTICAST,
};

/** A rule's expressions; the sets that they look up are then to be taken from `sets`. */
export function ruleExpressions(
  rule: FirewallRule,
  sets: AnonymousSets,
  { counters, cgroupId }: RuleOptions,
): Expression[] {
  return [
    ...nft.family(nfproto[rule.family]),
    ...rule.matches.flatMap((match) => matchExpressions(match, rule, sets, cgroupId)),
    ...(counters ? [counter()] : []),
    ...rule.statements.flatMap((statement) => statementExpressions(statement, rule)),
  ];
}

function matchExpressions(
  match: Match,
  rule: FirewallRule,
  sets: AnonymousSets,
  cgroupId: RuleOptions["cgroupId"],
): readonly Expression[] {
  switch (match.kind) {
    case "interface":
      return interfaceExpressions(match.names, sets, "input");
    case "protocol":
      return nft.protocol(ipProtocols[match.protocol]);
    case "source":
      return networkExpressions("source", match, rule, sets);
    case "destination":
      return networkExpressions("destination", match, rule, sets);
    case "destination-type":
      return typeExpressions(match.not, sets);
    case "destination-port":
      return portExpressions(match.ranges, sets);
    case "mark":
      return nft.markIs(match.mark.value, match.mark.mask);
    case "user":
      return [meta(NFT_META_SKUID), compare(hostOrder32(match.id))];
    case "group":
      return [meta(NFT_META_SKGID), compare(hostOrder32(match.id))];
    case "cgroup":
      return cgroupExpressions(match.path, cgroupId);
    case "reply":
      return nft.replyDirection();
    case "not-syn":
      return synAlone(NFT_CMP_NEQ);
    case "transparent-socket":
      return nft.transparentSocket(false);
    case "connected-socket":
      return [
        ...nft.transparentSocket(),
        ...nft.tproxyTo(match.unused, loopbackOf(rule.family).bytes),
      ];
    case "icmp":
      return nft.protocol(rule.family === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    default:
      return flowMatchExpressions(match, rule, {
        syn: synAlone(NFT_CMP_EQ),
        outputInterfaces: (names) => interfaceExpressions(names, sets, "output"),
        positive: (each) => [...matchExpressions(each, rule, sets, cgroupId)],
      });
  }
}

function interfaceExpressions(
  names: readonly string[],
  sets: AnonymousSets,
  side: "input" | "output",
): Expression[] {
  const [first, second] = names;
  if (first !== undefined && second === undefined) {
    return [...(side === "input" ? nft.inputInterface(first) : nft.outputInterface(first))];
  }
  const key = side === "input" ? NFT_META_IIFNAME : NFT_META_OIFNAME;
  const elements = names.map((name) => {
    const key = new Uint8Array(IFNAMSIZ);
    key.set(new TextEncoder().encode(name));
    return { key };
  });
  return [meta(key), lookup(sets.hostOrder(TYPE_IFNAME, IFNAMSIZ, elements))];
}

function networkExpressions(
  side: nft.Side,
  { networks, set }: Extract<Match, { networks: unknown }>,
  { family }: FirewallRule,
  sets: AnonymousSets,
): readonly Expression[] {
  const [first, second] = networks;
  if (first !== undefined && second === undefined) {
    return nft.address(side, { address: first.bytes, length: first.prefix });
  }
  if (set !== undefined) return nft.addressInSet(side, nfproto[family], { name: set });
  const type = family === 4 ? TYPE_IPADDR : TYPE_IP6ADDR;
  const ranges = sets.ranges(type, addressBits(family) / 8, rangesOf(networks));
  return nft.addressInSet(side, nfproto[family], ranges);
}

/** Any type but these. */
function typeExpressions(types: readonly AddressType[], sets: AnonymousSets): Expression[] {
  const elements = types.map((type) => ({ key: hostOrder32(addressTypes[type]) }));
  const set = sets.hostOrder(TYPE_FIB_ADDR, 4, elements);
  return [fibType(NFTA_FIB_F_DADDR), lookup(set, NFT_LOOKUP_F_INV)];
}

function portExpressions(
  ranges: readonly { from: number; to: number }[],
  sets: AnonymousSets,
): readonly Expression[] {
  const [first, second] = ranges;
  if (first !== undefined && second === undefined) {
    return nft.ports("destination", [first.from, first.to]);
  }
  const keys = ranges.map(({ from, to }) => ({
    first: networkOrder16(from),
    last: networkOrder16(to),
  }));
  const load = payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
  const set = sets.ranges(TYPE_INET_SERVICE, 2, keys);
  return [load, lookup(set)];
}

/** Of the 14th byte of a TCP header: FIN, SYN, RST and ACK (RFC 9293, 3.1). */
const [SYN, FIN_SYN_RST_ACK] = [0x02, 0x17];

/** `tcp flags & (fin | syn | rst | ack) == syn`, or `!=`. */
function synAlone(op: number): readonly Expression[] {
  return [
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1),
    bitwise(Uint8Array.of(FIN_SYN_RST_ACK), Uint8Array.of(0)),
    compare(Uint8Array.of(SYN), op),
  ];
}

/** `socket cgroupv2 level 2 "system.slice/tproxy.service"`: the group's ancestor at that level. */
function cgroupExpressions(path: string, cgroupId: RuleOptions["cgroupId"]): Expression[] {
  if (cgroupId === undefined) throw new RangeError(`control group ${path}: no numbers are known`);
  return [socketControlGroup(path.split("/").length), compare(hostOrder64(cgroupId(path)))];
}

function statementExpressions(statement: Statement, rule: FirewallRule): readonly Expression[] {
  const { family } = rule;
  switch (statement.kind) {
    case "mark":
      return nft.setMark(statement.mark.value, statement.mark.mask);
    case "tproxy":
      if (statement.address !== undefined) {
        return nft.tproxyTo(statement.port, statement.address.bytes);
      }
      // With no address the kernel takes the incoming interface's; `nft` writes it `tproxy ip to`.
      return [immediate(networkOrder16(statement.port)), tproxy(nfproto[family], false)];
    case "redirect":
      return [immediate(networkOrder16(statement.port)), redirect()];
    case "return":
      return [verdict(nl.NFT_RETURN)];
    case "accept":
      return [verdict(nl.NF_ACCEPT)];
    case "jump":
      return [verdict(nl.NFT_JUMP, statement.chain)];
    default:
      return flowStatementExpressions(statement, rule);
  }
}

type SetKind = Pick<NamedSet, "keyType" | "keyLength" | "hostOrder"> & { readonly flags: number };

/** The unnamed sets of one batch: each is made just before the only rule that looks it up. */
export class AnonymousSets {
  readonly #inet: { readonly family: number; readonly table: string };
  #last = 0;
  #messages: Message[] = [];

  constructor(inet: { readonly family: number; readonly table: string }) {
    this.#inet = inet;
  }

  /** A set of ranges of addresses or ports. */
  ranges(keyType: number, keyLength: number, ranges: readonly KeyRange[]) {
    const kind = { keyType, keyLength, flags: nl.NFT_SET_INTERVAL };
    return this.#make(kind, intervalElements(ranges));
  }

  /** A set of single keys in host order. */
  hostOrder(keyType: number, keyLength: number, elements: readonly SetElement[]) {
    return this.#make({ keyType, keyLength, flags: 0, hostOrder: true }, elements);
  }

  #make(kind: SetKind, elements: readonly SetElement[]) {
    const flags = nl.NFT_SET_ANONYMOUS | nl.NFT_SET_CONSTANT | kind.flags;
    // The kernel replaces %d by a number; within the batch the id identifies the set.
    const set = { ...this.#inet, name: "__set%d", id: ++this.#last };
    this.#messages.push(newSet({ ...set, ...kind, flags }), ...newElements(set, elements));
    return set;
  }

  /** The messages since the last call. */
  take(): Message[] {
    const messages = this.#messages;
    this.#messages = [];
    return messages;
  }
}
