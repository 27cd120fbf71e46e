/**
 * Commands of ip(8), nft(8) and conntrack(8), each with the messages that tproxy makes for the
 * same. Interface 1 is lo; the set-up of all commands makes a veth0 of index 2 with 192.0.2.1/24.
 */

import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { deleteAddress, newAddress } from "../../../ffi/netlink/address.ts";
import {
  FR_ACT_UNSPEC,
  IFA_F_NODAD,
  NF_ACCEPT,
  NF_DROP,
  NF_INET_INGRESS,
  NF_INET_LOCAL_OUT,
  NF_INET_PRE_ROUTING,
  NF_IP_PRI_MANGLE,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFPROTO_IPV6,
  NFT_JUMP,
  NFT_REG_1,
  NFT_RETURN,
  NFT_SET_INTERVAL,
  RT_TABLE_MAIN,
  RTN_BLACKHOLE,
  RTN_LOCAL,
  RTN_UNICAST,
  RTPROT_BOOT,
} from "../../../ffi/netlink/constants.ts";
import { deleteLink, newLink, newVeth, setLink } from "../../../ffi/netlink/link.ts";
import { newChain } from "../../../ffi/netlink/nftables/chain.ts";
import { NFT_BITWISE_LSHIFT } from "../../../ffi/netlink/nftables/expr/bitwise.ts";
import { compare, NFT_CMP_NEQ } from "../../../ffi/netlink/nftables/expr/cmp.ts";
import { NFT_CONNLIMIT_F_INV } from "../../../ffi/netlink/nftables/expr/connlimit.ts";
import { counter } from "../../../ffi/netlink/nftables/expr/counter.ts";
import { NFT_CT_MARK } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { immediate, verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { NFT_LIMIT_F_INV } from "../../../ffi/netlink/nftables/expr/limit.ts";
import { NFT_LOOKUP_F_INV } from "../../../ffi/netlink/nftables/expr/lookup.ts";
import { meta, metaSet, NFT_META_MARK } from "../../../ffi/netlink/nftables/expr/meta.ts";
import { NF_NAT_RANGE_PROTO_SPECIFIED } from "../../../ffi/netlink/nftables/expr/nat.ts";
import {
  NFT_PAYLOAD_TRANSPORT_HEADER,
  payload,
} from "../../../ffi/netlink/nftables/expr/payload.ts";
import { NFT_QUOTA_F_INV } from "../../../ffi/netlink/nftables/expr/quota.ts";
import { NFT_RANGE_NEQ } from "../../../ffi/netlink/nftables/expr/range.ts";
import { NFT_REJECT_TCP_RST } from "../../../ffi/netlink/nftables/expr/reject.ts";
import { hostOrder32, networkOrder16 } from "../../../ffi/netlink/nftables/registers.ts";
import {
  decodeFirewallRule,
  deleteFirewallRule,
  newFirewallRule,
} from "../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  deleteElements,
  intervalElements,
  newElements,
  newSet,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../../ffi/netlink/nftables/set.ts";
import * as nft from "../../../ffi/netlink/nftables/statements.ts";
import { decodeTable, deleteTable, newTable } from "../../../ffi/netlink/nftables/table.ts";
import { deleteRoute, getRoute, newRoute, type Route } from "../../../ffi/netlink/route.ts";
import { deleteRule, newRule, type Rule } from "../../../ffi/netlink/rule.ts";
import { ip, prefix } from "../../helpers/addresses.ts";
import type { Case } from "./case.ts";
import { conntrackCases } from "./conntrack-cases.ts";
import { kernelPathCases } from "./kernel-path-cases.ts";
import { inet, ruleCase, setup, tcp, udp, v4, v6 } from "./nft-case.ts";

const host = { family: AF_INET, protocol: RTPROT_BOOT, table: RT_TABLE_MAIN, type: RTN_UNICAST };
const local: Route = { ...host, type: RTN_LOCAL, oif: 1, table: 100 };
const marked: Rule = { family: AF_INET, mark: 1, table: 100 };
const address = { index: 2, address: ip("198.51.100.1"), prefixLength: 24 };
const gateway = ip("192.0.2.2");

const linkCases: Case[] = [
  { command: "ip link add veth1 type veth peer name veth2", messages: [newVeth("veth1", "veth2")] },
  {
    command: "ip link add veth1 mtu 1400 type veth peer name veth2",
    messages: [newLink({ name: "veth1", kind: "veth", mtu: 1400, peer: { name: "veth2" } })],
  },
  { command: "ip link set dev veth0 up", messages: [setLink(2, { up: true })] },
  { command: "ip link set dev veth0 down", messages: [setLink(2, { up: false })] },
  { command: "ip link set dev veth0 name out", messages: [setLink(2, { name: "out" })] },
  { command: "ip link del dev veth0", messages: [deleteLink({ index: 2 })] },
];

const addressCases: Case[] = [
  { command: "ip address add 198.51.100.1/24 dev veth0", messages: [newAddress(address)] },
  {
    command: "ip address del 198.51.100.1/24 dev veth0",
    setup: "ip address add 198.51.100.1/24 dev veth0",
    messages: [deleteAddress(address)],
  },
  {
    command: "ip address add 198.51.100.1 peer 198.51.100.2 dev veth0",
    messages: [newAddress({ ...address, prefixLength: 32, peer: ip("198.51.100.2") })],
  },
  {
    command: "ip address add 2001:db8::1/64 dev veth0 nodad",
    messages: [
      newAddress({ index: 2, address: ip("2001:db8::1"), prefixLength: 64, flags: IFA_F_NODAD }),
    ],
  },
];

const routeCases: Case[] = [
  {
    command: "ip route add local 0.0.0.0/0 dev lo table 100",
    messages: [newRoute({ ...local, destination: prefix("0.0.0.0/0") })],
  },
  {
    command: "ip route add local default dev lo table 1000",
    messages: [newRoute({ ...local, table: 1000 })],
  },
  {
    command: "ip -6 route add local ::/0 dev lo table 100",
    messages: [newRoute({ ...local, family: AF_INET6, destination: prefix("::/0") })],
  },
  { command: "ip route add default via 192.0.2.2", messages: [newRoute({ ...host, gateway })] },
  {
    command: "ip route add 203.0.113.0/24 dev veth0 src 192.0.2.1 metric 7",
    messages: [
      newRoute({
        ...host,
        destination: prefix("203.0.113.0/24"),
        preferredSource: ip("192.0.2.1"),
        oif: 2,
        priority: 7,
      }),
    ],
  },
  {
    command: "ip route add blackhole 203.0.113.0/24",
    messages: [newRoute({ ...host, destination: prefix("203.0.113.0/24"), type: RTN_BLACKHOLE })],
  },
  {
    command: "ip route del local default dev lo table 100 proto boot scope host",
    setup: "ip route add local default dev lo table 100",
    messages: [deleteRoute(local)],
  },
  {
    command: "ip route get 203.0.113.9 from 192.0.2.2 iif veth0 mark 0x1",
    setup: "ip route add local default dev lo table 100; ip rule add fwmark 1 lookup 100",
    messages: [
      getRoute({ destination: ip("203.0.113.9"), source: ip("192.0.2.2"), iif: 2, mark: 1 }),
    ],
  },
  {
    command: "ip route get 192.0.2.9 oif veth0 uid 0 ipproto udp sport 53 dport 54",
    messages: [
      getRoute({
        destination: ip("192.0.2.9"),
        oif: 2,
        uid: 0,
        protocol: IPPROTO_UDP,
        sourcePort: 53,
        destinationPort: 54,
      }),
    ],
  },
];

const ruleCases: Case[] = [
  { command: "ip rule add fwmark 1 table 100", messages: [newRule(marked)] },
  {
    command: "ip rule add priority 50 fwmark 0x1/0x1 table 1000 protocol 99",
    messages: [newRule({ ...marked, mask: 1, table: 1000, priority: 50, protocol: 99 })],
  },
  {
    command: "ip -6 rule add priority 50 fwmark 0x1/0x1 iif veth0 table 100",
    messages: [newRule({ ...marked, family: AF_INET6, mask: 1, iif: "veth0", priority: 50 })],
  },
  {
    command: "ip rule add not from 127.0.0.0/8 to 192.0.2.1 oif lo table 100",
    messages: [
      newRule({
        family: AF_INET,
        source: prefix("127.0.0.0/8"),
        destination: prefix("192.0.2.1/32"),
        invert: true,
        oif: "lo",
        table: 100,
      }),
    ],
  },
  {
    command: "ip rule add uidrange 0-0 ipproto tcp sport 7 dport 80-90 table 100",
    messages: [
      newRule({
        family: AF_INET,
        uids: [0, 0],
        ipProtocol: IPPROTO_TCP,
        sourcePorts: [7, 7],
        destinationPorts: [80, 90],
        table: 100,
      }),
    ],
  },
  {
    command: "ip rule del fwmark 1 table 100",
    setup: "ip rule add fwmark 1 table 100",
    messages: [deleteRule({ ...marked, action: FR_ACT_UNSPEC })],
  },
];

const filter = { type: "filter", hook: NF_INET_PRE_ROUTING, priority: NF_IP_PRI_MANGLE };
const set4 = { ...inet, name: "nets", id: 1, keyType: TYPE_IPADDR, keyLength: 4 };
const set6 = { ...inet, name: "hosts", id: 2, keyType: TYPE_IP6ADDR, keyLength: 16 };
const nets = [
  { first: ip("10.0.0.0"), last: ip("10.255.255.255") },
  { first: ip("192.168.1.1"), last: ip("192.168.1.1") },
];

/** Such a case, whose bytes nft writes in another way for the reason given. */
function alike(because: string, rule: Case): Case {
  return { ...rule, sameAs: { decode: decodeFirewallRule, because } };
}

const tableCases: Case[] = [
  {
    command: "nft 'create table inet t'",
    messages: [newTable({ family: NFPROTO_INET, name: "t" })],
    sameAs: { decode: decodeTable, because: "nft leaves out NLM_F_CREATE" },
  },
  {
    command: "nft 'delete table inet t'",
    setup,
    messages: [deleteTable({ family: NFPROTO_INET, name: "t" })],
  },
  {
    command:
      "nft 'create chain inet t c { type filter hook prerouting priority mangle; policy accept; }'",
    setup,
    messages: [newChain({ ...inet, name: "c", base: { ...filter, policy: NF_ACCEPT } })],
  },
  {
    command: "nft 'create chain inet t c { type route hook output priority 7; policy drop; }'",
    setup,
    messages: [
      newChain({
        ...inet,
        name: "c",
        base: { type: "route", hook: NF_INET_LOCAL_OUT, priority: 7, policy: NF_DROP },
      }),
    ],
  },
  {
    command:
      "nft 'create chain inet t c { type filter hook ingress device veth0 " +
      "priority 0; policy accept; }'",
    setup,
    messages: [
      newChain({
        ...inet,
        name: "c",
        base: {
          ...{ type: "filter", hook: NF_INET_INGRESS, priority: 0, policy: NF_ACCEPT },
          devices: ["veth0"],
        },
      }),
    ],
  },
  {
    command: "nft 'create chain inet t c'",
    setup,
    messages: [newChain({ ...inet, name: "c" })],
  },
  {
    command: "nft 'create set inet t s { type ipv4_addr; flags interval; }'",
    setup,
    messages: [newSet({ ...set4, name: "s", flags: NFT_SET_INTERVAL })],
    sameAs: { decode: decodeSet, because: "nft notes the key's byte order in the user data" },
  },
  {
    command: "nft 'add element inet t nets { 10.0.0.0/8, 192.168.1.1 }'",
    setup,
    messages: newElements(set4, intervalElements(nets)),
    sameAs: { decode: decodeElements, because: "nft numbers the members of the list" },
  },
  {
    command: "nft 'add element inet t hosts { 2001:db8::1 }'",
    setup,
    messages: newElements(set6, [{ key: ip("2001:db8::1") }]),
  },
  {
    command: "nft 'delete element inet t hosts { 2001:db8::1 }'",
    setup: `${setup}; nft 'add element inet t hosts { 2001:db8::1 }'`,
    messages: deleteElements({ ...inet, name: "hosts" }, [{ key: ip("2001:db8::1") }]),
  },
  {
    command: "nft 'delete rule inet t pre handle 5'",
    setup: `${setup}; nft 'add rule inet t pre counter'`,
    messages: [deleteFirewallRule({ ...inet, chain: "pre", handle: 5n })],
  },
];

const firewallCases: Case[] = [
  ruleCase(
    'iifname "veth0" ip daddr 8.8.8.8 tcp dport 80 counter ' +
      "meta mark set meta mark & 0xfffffffe | 0x1",
    nft.inputInterface("veth0"),
    [...v4, ...nft.address("destination", prefix("8.8.8.8/32"))],
    [...tcp, ...nft.ports("destination", [80, 80])],
    [counter(), ...nft.setMark(1, 1)],
  ),
  ruleCase(
    'iifname "veth0" ip6 daddr 2001:db8::9 tcp dport 80 counter ' +
      'meta mark set meta mark & 0xfffffffe | 0x1 comment "the twin"',
    nft.inputInterface("veth0"),
    [...v6, ...nft.address("destination", prefix("2001:db8::9/128"))],
    [...tcp, ...nft.ports("destination", [80, 80])],
    [counter(), ...nft.setMark(1, 1)],
  ),
  alike(
    "nft leaves out the operation for the masks of prefixes",
    ruleCase(
      "ip saddr 10.128.0.0/9 udp sport 1000-2000 meta mark set 0x7 accept",
      [...v4, ...nft.address("source", prefix("10.128.0.0/9"))],
      [...udp, ...nft.ports("source", [1000, 2000])],
      [...nft.setMark(7, 0xffff_ffff), verdict(NF_ACCEPT)],
    ),
  ),
  ruleCase(
    'oifname "veth*" ip6 saddr 2001:db8::/32 drop',
    [...nft.outputInterface("veth*"), ...v6, ...nft.address("source", prefix("2001:db8::/32"))],
    verdict(NF_DROP),
  ),
  ruleCase(
    "ip daddr @nets return",
    [...v4, ...nft.addressInSet("destination", NFPROTO_IPV4, set4)],
    verdict(NFT_RETURN),
  ),
  ruleCase(
    "ip6 saddr != @hosts jump aside",
    [...v6, ...nft.addressInSet("source", NFPROTO_IPV6, set6, NFT_LOOKUP_F_INV)],
    verdict(NFT_JUMP, "aside"),
  ),
  ruleCase(
    "meta mark & 0xff != 0x1 meta mark 0x7 return",
    [...nft.markIs(1, 0xff, true), ...nft.markIs(7, 0xffff_ffff)],
    verdict(NFT_RETURN),
  ),
  alike(
    "nft gives a control group's level of 0",
    ruleCase(
      "meta l4proto tcp socket transparent 1 socket wildcard 0 accept",
      [...tcp, ...nft.transparentSocket(false)],
      verdict(NF_ACCEPT),
    ),
  ),
  ruleCase(
    "tcp dport != 80 tcp sport != 1000-2000 accept",
    [...tcp, payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)],
    compare(networkOrder16(80), NFT_CMP_NEQ),
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2),
    {
      ...{ kind: "range", op: NFT_RANGE_NEQ, sreg: NFT_REG_1 },
      ...{ from: networkOrder16(1000), to: networkOrder16(2000) },
    },
    verdict(NF_ACCEPT),
  ),
  ruleCase("fib daddr type local return", nft.localDestination(), verdict(NFT_RETURN)),
  ruleCase("ct direction reply return", nft.replyDirection(), verdict(NFT_RETURN)),
  ruleCase("meta l4proto tcp tproxy to :50080", tcp, nft.tproxyTo(50080)),
  ruleCase(
    "meta nfproto ipv4 meta l4proto udp tproxy ip to 127.0.0.1:50080",
    [...v4, ...udp],
    nft.tproxyTo(50080, ip("127.0.0.1")),
  ),
  ruleCase(
    "meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:50080",
    [...v6, ...tcp],
    nft.tproxyTo(50080, ip("::1")),
  ),
];

/** NAT, and expressions that tproxy only reads, in rules of others. */
const otherCases: Case[] = [
  {
    command: "nft 'add rule inet t nat tcp dport 80 redirect to :50080'",
    setup: "nft 'add table inet t; add chain inet t nat { type nat hook prerouting priority 0; }'",
    messages: [
      newFirewallRule({
        ...{ ...inet, chain: "nat" },
        expressions: [
          ...[...tcp, ...nft.ports("destination", [80, 80])],
          immediate(networkOrder16(50080)),
          { kind: "redir", portRegister: NFT_REG_1, flags: NF_NAT_RANGE_PROTO_SPECIFIED },
        ],
      }),
    ],
  },
  ruleCase(
    "ct mark set 0x7 limit rate over 10/second accept",
    immediate(hostOrder32(7)),
    { kind: "ct set", key: NFT_CT_MARK, sreg: NFT_REG_1 },
    { kind: "limit", rate: 10n, unit: 1n, burst: 5, type: 0, flags: NFT_LIMIT_F_INV },
    verdict(NF_ACCEPT),
  ),
  ruleCase(
    "meta l4proto tcp reject with tcp reset",
    ...[tcp, { kind: "reject", type: NFT_REJECT_TCP_RST, code: 0 } as const],
  ),
  ruleCase(
    "quota over 5 bytes drop",
    { kind: "quota", bytes: 5n, consumed: 0n, flags: NFT_QUOTA_F_INV },
    verdict(NF_DROP),
  ),
  ruleCase(
    "ct count over 5 drop",
    { kind: "connlimit", count: 5, flags: NFT_CONNLIMIT_F_INV },
    verdict(NF_DROP),
  ),
  ruleCase(
    "exthdr frag exists accept",
    v6,
    { kind: "exthdr", op: 0, type: 44, offset: 0, length: 1, flags: 1, dreg: NFT_REG_1 },
    compare(Uint8Array.of(1)),
    verdict(NF_ACCEPT),
  ),
  ruleCase("udp dport set 53", udp, immediate(networkOrder16(53)), {
    ...{ kind: "payload set", base: 2, offset: 2, length: 2, sreg: NFT_REG_1 },
    ...{ checksumType: 1, checksumOffset: 6 },
  }),
  ruleCase(
    "meta mark set meta mark << 1",
    meta(NFT_META_MARK),
    {
      ...{ kind: "bit operation", op: NFT_BITWISE_LSHIFT, sreg: NFT_REG_1, dreg: NFT_REG_1 },
      ...{ length: 4, operand: hostOrder32(1) },
    },
    metaSet(NFT_META_MARK),
  ),
];

export const cases: readonly Case[] = [
  ...linkCases,
  ...addressCases,
  ...routeCases,
  ...ruleCases,
  ...tableCases,
  ...firewallCases,
  ...otherCases,
  ...conntrackCases,
  ...kernelPathCases,
];
