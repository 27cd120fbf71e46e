/** Firewall rules as the words of iptables commands. */

import { type Family, formatAddress } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import type { PortRange } from "../../net/port.ts";
import type { AddressType, FirewallRule, Match, Statement } from "../plan/plan.ts";

/** The most ports that `-m multiport` takes; a range counts as two (iptables-extensions(8)). */
const multiportMax = 15;

/** The marks of our rules: their comment, and the prefix of their ipsets' names. */
interface Ours {
  readonly table: string;
  readonly comment: string;
}

/**
 * A rule's matches and target as iptables words. A rule of ours can take several of iptables', and
 * none where they do without it.
 */
export function ruleWords(rule: FirewallRule, ours?: Ours): readonly (readonly string[])[] {
  const { protocol } = rule.matches.find((match) => match.kind === "protocol") ?? {};
  let products: readonly (readonly string[])[] = [[]];
  for (const match of rule.matches) {
    const choices = matchWords(match, rule, { protocol, table: ours?.table });
    products = products.flatMap((head) => choices.map((words) => [...head, ...words]));
  }
  const note = ours === undefined ? [] : ["-m", "comment", "--comment", ours.comment];
  return products.map((words) => [...words, ...note, ...targetWords(rule.statements)]);
}

/** The properties of a rule that its matches depend on. */
interface Around {
  readonly protocol: string | undefined;
  readonly table: string | undefined;
}

/** The alternatives of one match, each the words of one iptables rule. */
function matchWords(
  match: Match,
  rule: FirewallRule,
  { protocol, table }: Around,
): readonly (readonly string[])[] {
  switch (match.kind) {
    case "interface":
      return match.names.map((name) => ["-i", name.replace(/\*$/, "+")]);
    case "protocol":
      return [["-p", match.protocol]];
    case "source":
      if (match.set !== undefined) return [setWords(`${table}-${match.set}`, "src")];
      return match.networks.map((network) => ["-s", formatCidr(network)]);
    case "destination":
      if (match.set !== undefined) return [setWords(`${table}-${match.set}`, "dst")];
      return match.networks.map((network) => ["-d", formatCidr(network)]);
    case "destination-type":
      return [addressTypeWords(match.not, rule.family)];
    case "destination-port":
      return portWords(match.ranges, protocol);
    case "mark":
      return [["-m", "mark", "--mark", markAndMask(match.mark)]];
    case "user":
      return [["-m", "owner", "--uid-owner", `${match.id}`]];
    case "group":
      return [["-m", "owner", "--gid-owner", `${match.id}`]];
    case "cgroup":
      return [["-m", "cgroup", "--path", match.path]];
    case "reply":
      return [["-m", "conntrack", "--ctdir", "REPLY"]];
    case "not-syn":
      return [["-m", "tcp", "!", "--syn"]];
    case "transparent-socket":
      return [socketWords];
    case "connected-socket":
      return protocol === "tcp" ? [socketWords] : datagramWords(match.asked);
    case "icmp":
      return [["-p", rule.family === 4 ? "icmp" : "ipv6-icmp"]];
    default:
      throw new RangeError(`iptables has no words for "${match.kind}"`);
  }
}

/** Without --nowildcard it ignores sockets that are bound to every address, and only those. */
const socketWords = ["-m", "socket", "--transparent"];

/**
 * Replies to a socket's datagrams. At ports that no client asks for there are no others; what comes
 * to the others is a reply if conntrack knows the datagram that it answers.
 */
function datagramWords(asked: readonly PortRange[]): readonly (readonly string[])[] {
  const reply = [...socketWords, "-m", "conntrack", "--ctdir", "REPLY"];
  if (asked.length === 0) return [reply];
  return [[...otherPortWords(asked, "udp"), ...socketWords], reply];
}

function setWords(name: string, side: "src" | "dst"): readonly string[] {
  return ["-m", "set", "--match-set", name, side];
}

/**
 * In IPv4 a list of types is met by any of them. In IPv6 a list with MULTICAST in it is met by
 * multicast addresses alone (match_type6 in net/netfilter/xt_addrtype.c), so that stands apart.
 */
function addressTypeWords(types: readonly AddressType[], family: Family): readonly string[] {
  const others = types.filter((type) => type !== "multicast");
  const lists = family === 4 ? [types] : [others, types.filter((type) => type === "multicast")];
  return lists
    .filter((list) => list.length > 0)
    .flatMap((list) => ["-m", "addrtype", "!", "--dst-type", list.join(",").toUpperCase()]);
}

/** The alternatives of a list of ports. */
function portWords(ranges: readonly PortRange[], protocol: string | undefined) {
  const [first, second] = ranges;
  if (first !== undefined && second === undefined) {
    return [["-m", protocol ?? "", "--dport", portText(first)]];
  }
  return multiportChunks(ranges).map((chunk) => [
    ...["-m", "multiport", "--dports"],
    chunk.map(portText).join(","),
  ]);
}

/** None of the ports: all conditions of one rule. */
function otherPortWords(ranges: readonly PortRange[], protocol: string | undefined) {
  return portWords(ranges, protocol).flatMap(([m = "", module = "", ...rest]) => [
    ...[m, module, "!"],
    ...rest,
  ]);
}

function portText({ from, to }: PortRange): string {
  return from === to ? `${from}` : `${from}:${to}`;
}

function multiportChunks(ranges: readonly PortRange[]): readonly (readonly PortRange[])[] {
  const chunks: PortRange[][] = [];
  let room = 0;
  for (const range of ranges) {
    const size = range.from === range.to ? 1 : 2;
    if (size > room) {
      chunks.push([]);
      room = multiportMax;
    }
    chunks.at(-1)?.push(range);
    room -= size;
  }
  return chunks;
}

/**
 * The target; TPROXY sets the mark itself, drops the packet if there is no listener, and otherwise
 * lets no later rule see it.
 */
function targetWords(statements: readonly Statement[]): readonly string[] {
  const marking = statements.find((statement) => statement.kind === "mark");
  const tproxy = statements.find((statement) => statement.kind === "tproxy");
  const redirect = statements.find((statement) => statement.kind === "redirect");
  const mark = marking === undefined ? "0x0/0x0" : markAndMask(marking.mark);
  if (redirect !== undefined) return ["-j", "REDIRECT", "--to-ports", `${redirect.port}`];
  if (tproxy !== undefined) {
    const { port, address } = tproxy;
    const onIp = address === undefined ? [] : ["--on-ip", formatAddress(address)];
    return ["-j", "TPROXY", ...onIp, "--on-port", `${port}`, "--tproxy-mark", mark];
  }
  return marking === undefined ? ["-j", "RETURN"] : ["-j", "MARK", "--set-xmark", mark];
}

function markAndMask({ value, mask }: { value: number; mask: number }): string {
  return `0x${value.toString(16)}/0x${mask.toString(16)}`;
}
