/** Commands about NAT, maps, time-outs and flowtables, as the kernel path uses them. */

import { IPPROTO_TCP } from "../../../ffi/constants.ts";
import {
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_FLOWTABLE_COUNTER,
  NFT_OBJECT_CT_TIMEOUT,
  NFT_REG_1,
  NFT_REG_2,
  NFT_REG32_01,
  NFT_SET_MAP,
} from "../../../ffi/netlink/constants.ts";
import { newTimeoutObject } from "../../../ffi/netlink/nftables/ct-timeout.ts";
import { flowOffload } from "../../../ffi/netlink/nftables/expr/flow-offload.ts";
import { jhash } from "../../../ffi/netlink/nftables/expr/hash.ts";
import { immediate } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { lookup } from "../../../ffi/netlink/nftables/expr/lookup.ts";
import { masquerade } from "../../../ffi/netlink/nftables/expr/masq.ts";
import { NFT_NAT_DNAT, NFT_NAT_SNAT, nat } from "../../../ffi/netlink/nftables/expr/nat.ts";
import {
  NFT_NG_INCREMENTAL,
  NFT_NG_RANDOM,
  numgen,
} from "../../../ffi/netlink/nftables/expr/numgen.ts";
import { objectReference } from "../../../ffi/netlink/nftables/expr/objref.ts";
import { NFT_PAYLOAD_NETWORK_HEADER, payload } from "../../../ffi/netlink/nftables/expr/payload.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { decodeFlowtable, newFlowtable } from "../../../ffi/netlink/nftables/flowtable.ts";
import { hostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import { decodeFirewallRule, newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  concatenated,
  newElements,
  newSet,
  TYPE_INET_SERVICE,
  TYPE_INTEGER,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../../ffi/netlink/nftables/set.ts";
import { numberToEndpoint } from "../../../ffi/netlink/nftables/typeof.ts";
import { ip } from "../../helpers/addresses.ts";
import type { Case } from "./case.ts";
import { inet, ruleCase, setup, tcp, udp, v4, v6 } from "./nft-case.ts";

const upstreams4 = {
  ...{ ...inet, name: "up4", id: 3, flags: NFT_SET_MAP, keyType: TYPE_INTEGER, keyLength: 4 },
  ...{ dataType: concatenated(TYPE_IPADDR, TYPE_INET_SERVICE), dataLength: 8 },
};
const upstreams6 = {
  ...{ ...upstreams4, name: "up6", id: 4, dataLength: 20 },
  dataType: concatenated(TYPE_IP6ADDR, TYPE_INET_SERVICE),
};
const endpoints4 = {
  ...{ ...inet, name: "e4", id: 5, keyLength: 8 },
  keyType: concatenated(TYPE_IPADDR, TYPE_INET_SERVICE),
};
const endpoint4 = Uint8Array.of(192, 0, 2, 9, 0, 80, 0, 0);
const endpoint6 = Uint8Array.of(...ip("2001:db8::9"), 0, 53, 0, 0);
const maps =
  "add map inet t up4 { typeof numgen inc mod 256 : ip daddr . th dport; }; " +
  "add map inet t up6 { typeof numgen inc mod 256 : ip6 daddr . th dport; }; " +
  "add set inet t e4 { type ipv4_addr . inet_service; }";
const natChain = "nft 'add chain inet t nat { type nat hook prerouting priority dstnat; }'";
const srcChain = "nft 'add chain inet t nat { type nat hook postrouting priority srcnat; }'";
const policy = {
  ...{ synSent: 120, synReceived: 60, established: 7200, finWait: 120, closeWait: 60 },
  ...{ lastAck: 30, timeWait: 10, close: 10, synSent2: 120 },
  ...{ retransmitted: 300, unacknowledged: 300 },
};
const timeouts = { ...inet, network: NFPROTO_IPV4, protocol: IPPROTO_TCP, policy };
const flowtable = { ...inet, name: "ft", priority: 0, flags: NFT_FLOWTABLE_COUNTER };
const flowtableText =
  "add flowtable inet t ft { hook ingress priority 0; devices = { veth0, veth9 }; counter; }";

/** A rule of a nat chain; the kernel adds to what nft sends. */
function natCase(text: string, chain: string, ...parts: (Expression | readonly Expression[])[]) {
  const rule = { ...{ ...inet, chain: "nat" }, expressions: parts.flat() };
  return {
    // nft does not join the ports of a rule with those of a map that it has read of the kernel.
    command: `nft '${maps}; add rule inet t nat ${text}'`,
    setup: `${setup}; ${chain}`,
    messages: [newFirewallRule(rule)],
    sameAs: { decode: withoutRanges, because: "nft leaves out what the kernel completes" },
  };
}

/** A rule without the ends of NAT's ranges and the flags, which the kernel adds. */
function withoutRanges(body: Uint8Array) {
  const { expressions, ...rule } = decodeFirewallRule(body);
  const bare = expressions.map((each) => {
    if (each.kind === "lookup") return lookup({ name: each.set });
    if (each.kind !== "nat") return each;
    const { lastAddressRegister: _, lastPortRegister: __, flags: ___, ...rest } = each;
    return rest;
  });
  return { ...rule, expressions: bare };
}

const fromUp4 = { ...lookup(upstreams4), dreg: NFT_REG_1 };
const fromUp6 = { ...lookup(upstreams6), dreg: NFT_REG_1 };

export const kernelPathCases: readonly Case[] = [
  {
    command: "nft 'create map inet t up4 { typeof numgen inc mod 256 : ip daddr . th dport; }'",
    setup,
    messages: [newSet({ ...upstreams4, id: 1, userData: numberToEndpoint(256, 4) })],
  },
  {
    command: "nft 'create map inet t up6 { typeof numgen inc mod 1024 : ip6 daddr . th dport; }'",
    setup,
    messages: [newSet({ ...upstreams6, id: 1, userData: numberToEndpoint(1024, 6) })],
  },
  {
    command: "nft 'add element inet t up4 { 7 : 192.0.2.9 . 80 }'",
    setup: `${setup}; nft '${maps}'`,
    messages: newElements(upstreams4, [{ key: hostOrder32(7), data: endpoint4 }]),
  },
  {
    command: "nft 'add element inet t up6 { 7 : 2001:db8::9 . 53 }'",
    setup: `${setup}; nft '${maps}'`,
    messages: newElements(upstreams6, [{ key: hostOrder32(7), data: endpoint6 }]),
  },
  {
    command: "nft 'add element inet t e4 { 192.0.2.9 . 80 }'",
    setup: `${setup}; nft '${maps}'`,
    messages: newElements(endpoints4, [{ key: endpoint4 }]),
  },
  natCase(
    "meta nfproto ipv4 meta l4proto tcp dnat ip to numgen inc mod 256 map @up4",
    natChain,
    [...v4, ...tcp, numgen(256, NFT_NG_INCREMENTAL), fromUp4],
    nat(NFT_NAT_DNAT, NFPROTO_IPV4, NFT_REG_1, NFT_REG32_01),
  ),
  natCase(
    "meta nfproto ipv4 meta l4proto udp dnat ip to jhash ip saddr mod 256 seed 0x7 map @up4",
    natChain,
    [...v4, ...udp, { ...payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4), dreg: NFT_REG_2 }],
    [jhash(4, 256, 7), fromUp4],
    nat(NFT_NAT_DNAT, NFPROTO_IPV4, NFT_REG_1, NFT_REG32_01),
  ),
  natCase(
    "meta nfproto ipv6 meta l4proto udp dnat ip6 to numgen random mod 256 map @up6",
    natChain,
    [...v6, ...udp, numgen(256, NFT_NG_RANDOM), fromUp6],
    nat(NFT_NAT_DNAT, NFPROTO_IPV6, NFT_REG_1, NFT_REG_2),
  ),
  natCase(
    "meta nfproto ipv4 snat ip to ip saddr",
    srcChain,
    [...v4, payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4)],
    nat(NFT_NAT_SNAT, NFPROTO_IPV4, NFT_REG_1),
  ),
  natCase(
    "meta nfproto ipv6 snat ip6 to 2001:db8::7",
    srcChain,
    [...v6, immediate(ip("2001:db8::7"))],
    nat(NFT_NAT_SNAT, NFPROTO_IPV6, NFT_REG_1),
  ),
  natCase("masquerade", srcChain, masquerade()),
  {
    command:
      "nft 'create ct timeout inet t t4 { protocol tcp; l3proto ip; " +
      "policy = { established : 7200, time_wait : 10 }; }'",
    setup,
    messages: [newTimeoutObject({ ...timeouts, name: "t4" })],
  },
  {
    ...ruleCase(
      'meta l4proto tcp ct timeout set "t4"',
      tcp,
      objectReference(NFT_OBJECT_CT_TIMEOUT, "t4"),
    ),
    setup: `${setup}; nft 'add ct timeout inet t t4 { protocol tcp; l3proto ip; }'`,
    sameAs: { decode: decodeFirewallRule, because: "libnftnl leaves out the NUL of the name" },
  },
  // Kernels without flowtables refuse them, and have been sent them all the same.
  {
    command: `nft '${flowtableText}' || true`,
    setup,
    messages: [newFlowtable({ ...flowtable, devices: ["veth0", "veth9"] })],
    sameAs: { decode: flowtableOf, because: "nft sorts the interfaces as it likes" },
  },
  {
    command: `nft '${flowtableText}; add rule inet t pre meta l4proto tcp flow add @ft' || true`,
    setup,
    messages: [
      newFirewallRule({ ...inet, chain: "pre", expressions: [...tcp, flowOffload("ft")] }),
    ],
  },
];

function flowtableOf(body: Uint8Array) {
  const { devices, ...rest } = decodeFlowtable(body);
  return { ...rest, devices: devices.toSorted() };
}
