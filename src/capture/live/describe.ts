/** Rules, routes and firewall rules in words close to those of ip(8) and nft(8). Pure. */

import { AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import * as nl from "../../../ffi/netlink/constants.ts";
import { NFT_CT_DIRECTION } from "../../../ffi/netlink/nftables/expr/ct.ts";
import {
  NFT_META_IIFNAME,
  NFT_META_L4PROTO,
  NFT_META_MARK,
  NFT_META_NFPROTO,
  NFT_META_OIFNAME,
  NFT_META_SKGID,
  NFT_META_SKUID,
} from "../../../ffi/netlink/nftables/expr/meta.ts";
import {
  NFT_PAYLOAD_TRANSPORT_HEADER,
  type PayloadLoad,
} from "../../../ffi/netlink/nftables/expr/payload.ts";
import {
  NFT_SOCKET_CGROUPV2,
  NFT_SOCKET_WILDCARD,
  type SocketLoad,
} from "../../../ffi/netlink/nftables/expr/socket.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { elementRanges } from "../../../ffi/netlink/nftables/set.ts";
import type { Prefix, Route } from "../../../ffi/netlink/route.ts";
import type { Range, Rule } from "../../../ffi/netlink/rule.ts";
import { HOST_ORDER, NETWORK_ORDER } from "../../../ffi/netlink/wire.ts";
import { formatAddress } from "../../net/address.ts";
import { fullMask } from "../../net/mark.ts";
import type { FilledSet } from "./desired-state.ts";

const actions: Readonly<Record<number, string>> = {
  [nl.FR_ACT_GOTO]: "goto",
  [nl.FR_ACT_BLACKHOLE]: "blackhole",
  [nl.FR_ACT_UNREACHABLE]: "unreachable",
  [nl.FR_ACT_PROHIBIT]: "prohibit",
};

/** `ip rule 100: from 127.0.0.1 iif lo ipproto tcp sport 80 lookup 100 protocol 116` */
export function describeRule(rule: Rule): string {
  const { family, priority, protocol } = rule;
  const place = priority === undefined ? "" : ` ${priority}`;
  return `${ip(family)} rule${place}: ${ruleWords(rule)}${protocol ? ` protocol ${protocol}` : ""}`;
}

const tableNames: Readonly<Record<number, string>> = {
  [nl.RT_TABLE_LOCAL]: "local",
  [nl.RT_TABLE_MAIN]: "main",
};

/** All that a rule asks for, as ip(8) writes it, and what it does: `from 192.0.2.1 lookup 100`. */
export function ruleWords(rule: Rule): string {
  const { mark, mask = fullMask, action, table, uids } = rule;
  const words = [
    rule.source && `from ${selectorText(rule.source)}`,
    rule.destination && `to ${selectorText(rule.destination)}`,
    rule.iif !== undefined && `iif ${rule.iif}`,
    rule.oif !== undefined && `oif ${rule.oif}`,
    mark !== undefined &&
      `fwmark ${hexNumber(mark)}${mask === fullMask ? "" : `/${hexNumber(mask)}`}`,
    uids && `uidrange ${uids[0]}-${uids[1]}`,
    rule.ipProtocol && `ipproto ${protocolNames[rule.ipProtocol] ?? rule.ipProtocol}`,
    rule.sourcePorts && `sport ${rangeText(rule.sourcePorts)}`,
    rule.destinationPorts && `dport ${rangeText(rule.destinationPorts)}`,
    rule.l3mdev && "l3mdev",
  ].filter(Boolean);
  if (words.length === 0) words.push("from all");
  if (rule.invert) words.unshift("not");
  const goto = rule.goto === undefined ? "" : ` ${rule.goto}`;
  const suppressed = rule.suppressPrefixLength;
  words.push(
    action !== undefined
      ? `${actions[action] ?? `action ${action}`}${goto}`
      : `lookup ${tableNames[table] ?? table}`,
  );
  if (suppressed !== undefined) words.push(`suppress_prefixlength ${suppressed}`);
  return words.join(" ");
}

/** A prefix as ip(8) writes it: one address without its length. */
function selectorText(prefix: Prefix): string {
  const isOne = prefix.length === 8 * prefix.address.length;
  return isOne ? addressText(prefix.address) : prefixText(prefix);
}

function rangeText([first, last]: Range): string {
  return first === last ? `${first}` : `${first}-${last}`;
}

const routeTypes: Readonly<Record<number, string>> = {
  [nl.RTN_LOCAL]: "local ",
  [nl.RTN_BLACKHOLE]: "blackhole ",
  [nl.RTN_UNREACHABLE]: "unreachable ",
  [nl.RTN_PROHIBIT]: "prohibit ",
};

/** `ip route: local default table 100 protocol 116` */
export function describeRoute(route: Route): string {
  const { family, type, table, protocol, destination, gateway } = route;
  const to = destination === undefined || destination.length === 0 ? undefined : destination;
  const via = gateway === undefined ? "" : ` via ${addressText(gateway)}`;
  const where = to === undefined ? "default" : prefixText(to);
  return (
    `${ip(family)} route: ${routeTypes[type] ?? ""}${where}${via} table ${table}` +
    (protocol === nl.RTPROT_BOOT || protocol === 0 ? "" : ` protocol ${protocol}`)
  );
}

function ip(family: number): string {
  return family === AF_INET6 ? "ip -6" : "ip";
}

const familyNames: Readonly<Record<number, string>> = {
  [nl.NFPROTO_INET]: "inet",
  [nl.NFPROTO_IPV4]: "ip",
  [nl.NFPROTO_IPV6]: "ip6",
  [nl.NFPROTO_NETDEV]: "netdev",
  [nl.NFPROTO_BRIDGE]: "bridge",
};

/** A table's family as nft(8) names it. */
export function familyName(family: number): string {
  return familyNames[family] ?? String(family);
}

/** `meta l4proto tcp ip daddr 8.8.8.8 meta mark set …`; long sets are cut short. */
export function describeFirewallRule(rule: FirewallRule, sets: readonly FilledSet[]): string {
  const words: string[] = [];
  let loaded = "";
  for (const expression of rule.expressions) {
    const next = step(expression, loaded, sets);
    if (next.loads !== undefined) loaded = next.loads;
    if (next.says !== undefined) words.push(next.says);
  }
  return words.join(" ");
}

interface Words {
  /** The value in the register. */
  readonly loads?: string;
  /** The rule's condition or action on it. */
  readonly says?: string;
}

const metaNames: Readonly<Record<number, string>> = {
  [NFT_META_MARK]: "meta mark",
  [NFT_META_IIFNAME]: "iifname",
  [NFT_META_OIFNAME]: "oifname",
  [NFT_META_SKUID]: "meta skuid",
  [NFT_META_SKGID]: "meta skgid",
  [NFT_META_NFPROTO]: "meta nfproto",
  [NFT_META_L4PROTO]: "meta l4proto",
};
const comparisons = ["", "!= ", "< ", "<= ", "> ", ">= "];
const verdicts: Readonly<Record<number, string>> = {
  [nl.NF_DROP]: "drop",
  [nl.NF_ACCEPT]: "accept",
  [nl.NFT_JUMP]: "jump",
  [nl.NFT_GOTO]: "goto",
  [nl.NFT_RETURN]: "return",
};

type Of<Kind extends Expression["kind"]> = Extract<Expression, { kind: Kind }>;
type Describe<Kind extends Expression["kind"]> = (
  expression: Of<Kind>,
  loaded: string,
  sets: readonly FilledSet[],
) => Words;

/** A kind that is not here is shown by its name alone. */
const descriptions: { readonly [Kind in Expression["kind"]]?: Describe<Kind> } = {
  bitwise: ({ mask, xor }, loaded) => ({ loads: `${loaded} & ${hexOf(mask)} ^ ${hexOf(xor)}` }),
  cmp: ({ op, data }, loaded) => ({ says: `${loaded} ${comparisons[op]}${value(loaded, data)}` }),
  counter: () => ({}),
  ct: ({ key }) => ({ loads: key === NFT_CT_DIRECTION ? "ct direction" : `ct ${key}` }),
  fib: () => ({ loads: "fib daddr type" }),
  immediate: ({ data }) => ({ loads: hexOf(data) }),
  lookup({ set: name, setId, flags }, loaded, sets) {
    const set = sets.find((each) => (setId === undefined ? each.name === name : each.id === setId));
    return { says: `${loaded} ${flags ? "!= " : ""}${setText(loaded, set)}` };
  },
  meta: ({ key }) => ({ loads: metaName(key) }),
  "meta set": ({ key }, loaded) => ({ says: `${metaName(key)} set ${loaded}` }),
  other: ({ name }) => ({ says: name }),
  payload: (expression) => ({ loads: payloadName(expression) }),
  range: ({ from, to }, loaded) => ({
    says: `${loaded} ${value(loaded, from)}-${value(loaded, to)}`,
  }),
  redir: (_, loaded) => ({ says: `redirect to ${loaded}` }),
  socket: (expression) => ({ loads: socketName(expression) }),
  tproxy: (_, loaded) => ({ says: `tproxy to ${loaded}` }),
  verdict: ({ code, chain }) => ({ says: [verdicts[code], chain].filter(Boolean).join(" ") }),
};

function step(expression: Expression, loaded: string, sets: readonly FilledSet[]): Words {
  const describe = descriptions[expression.kind] as Describe<Expression["kind"]> | undefined;
  return describe?.(expression, loaded, sets) ?? { says: expression.kind };
}

function metaName(key: number): string {
  return metaNames[key] ?? `meta ${key}`;
}

function socketName({ key, level }: SocketLoad): string {
  if (key === NFT_SOCKET_CGROUPV2) return `socket cgroupv2 level ${level}`;
  return key === NFT_SOCKET_WILDCARD ? "wildcard" : "transparent";
}

function payloadName({ base, offset, length }: PayloadLoad): string {
  if (base === NFT_PAYLOAD_TRANSPORT_HEADER) return offset === 0 ? "sport" : "dport";
  const isV4 = length <= 4 && offset >= 12;
  if (isV4) return offset < 16 ? "ip saddr" : "ip daddr";
  return offset < 24 ? "ip6 saddr" : "ip6 daddr";
}

const entriesShownMax = 4;

function setText(loaded: string, set: FilledSet | undefined): string {
  if (set === undefined) return "{ … }";
  const isInterval = ((set.flags ?? 0) & nl.NFT_SET_INTERVAL) !== 0;
  const ranges = isInterval
    ? elementRanges(set.elements)
    : set.elements.map(({ key }) => ({ first: key, last: key }));
  const shown = ranges.slice(0, entriesShownMax).map(({ first, last }) => {
    const isOne = Buffer.compare(first, last) === 0;
    return isOne ? value(loaded, first) : `${value(loaded, first)}-${value(loaded, last)}`;
  });
  const rest = ranges.length - shown.length;
  return `{ ${shown.join(", ")}${rest > 0 ? `, … ${rest} more` : ""} }`;
}

const protocolNames: Readonly<Record<number, string>> = {
  [IPPROTO_TCP]: "tcp",
  [IPPROTO_UDP]: "udp",
};
const addressTypes: Readonly<Record<number, string>> = {
  [nl.RTN_LOCAL]: "local",
  [nl.RTN_BROADCAST]: "broadcast",
  [nl.RTN_ANYCAST]: "anycast",
  [nl.RTN_MULTICAST]: "multicast",
};

function value(loaded: string, data: Uint8Array): string {
  const [first = 0] = data;
  if (/^[io]ifname$/.test(loaded)) return `"${Buffer.from(data).toString().replace(/\0+$/, "")}"`;
  if (loaded === "meta nfproto") return first === nl.NFPROTO_IPV4 ? "ipv4" : "ipv6";
  if (loaded === "meta l4proto") return protocolNames[first] ?? String(first);
  if (/port$/.test(loaded) && data.length === 2)
    return String(view(data).getUint16(0, NETWORK_ORDER));
  if (loaded === "fib daddr type" && data.length === 4) {
    const type = view(data).getUint32(0, HOST_ORDER);
    return addressTypes[type] ?? String(type);
  }
  if (/addr$/.test(loaded) && data.length <= 16) return networkText(loaded, data);
  return hexOf(data);
}

/** Of a network of whole bytes the kernel compares just those, as nft(8) asks it to. */
function networkText(loaded: string, data: Uint8Array): string {
  const length = loaded.startsWith("ip6") ? 16 : 4;
  if (data.length >= length) return addressText(data);
  const address = new Uint8Array(length);
  address.set(data);
  return prefixText({ address, length: data.length * 8 });
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** A register's bytes: marks in host order, everything else as it is. */
function hexOf(data: Uint8Array): string {
  if (data.length === 4) return hexNumber(view(data).getUint32(0, HOST_ORDER));
  if (data.length === 2) return `:${view(data).getUint16(0, NETWORK_ORDER)}`;
  return data.length === 1 ? String(data[0]) : `0x${Buffer.from(data).toString("hex")}`;
}

function hexNumber(number: number): string {
  return `0x${number.toString(16)}`;
}

function prefixText({ address, length }: Prefix): string {
  return `${addressText(address)}/${length}`;
}

function addressText(bytes: Uint8Array): string {
  return formatAddress({ family: bytes.length === 4 ? 4 : 6, bytes });
}
