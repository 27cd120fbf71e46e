/** Commands that let a packet through where a rule drops it, by who keeps the rules. Pure. */

import type { Touch } from "../nft-evaluator/state.ts";
import type { Packet } from "../packet.ts";
import type { RuledChain } from "../snapshot/ruleset.ts";

/** Which of the packet's ends is this host's, and by which interface it comes or leaves. */
interface Let {
  readonly way: "in" | "out";
  readonly device: string;
  readonly protocol: "tcp" | "udp";
  /** The port that was asked for: the destination's on the way in, the source's on the way out. */
  readonly port: number;
  readonly isV6: boolean;
}

/** A command to be pasted; it puts an exception in front of the rules of the chain that dropped. */
export function letThrough(
  touch: Touch,
  packet: Packet,
  chains: readonly RuledChain[],
): string | undefined {
  const [family, table, chain] = (touch.base ?? "").split(" ");
  if (family === undefined || table === undefined || chain === undefined) return undefined;
  const isAnswer = packet.stage === "answer";
  const isOut = packet.iif === "";
  const wanted: Let = {
    way: isOut ? "out" : "in",
    device: (isOut ? packet.oif : packet.iif) ?? "",
    protocol: packet.protocol,
    port: (isAnswer ? packet.sourcePort : packet.port) ?? 0,
    isV6: packet.destination.family === 6,
  };
  const isUfw = chains.some((each) => each.table === table && each.name.startsWith("ufw"));
  if (table === "firewalld" && wanted.way === "in" && !isAnswer) return ofFirewalld(wanted);
  if (isUfw && table === "filter" && wanted.way === "in" && !isAnswer) {
    // ufw drops packets for other addresses before the rules that "ufw allow" makes.
    return ofIptables(wanted, table, `ufw${wanted.isV6 ? "6" : ""}-before-input`, "dport", false);
  }
  const side = isAnswer ? "sport" : "dport";
  if (touch.isLegacy || isOfIptables(family, table, chain)) {
    return ofIptables(wanted, table, chain, side, touch.isLegacy === true);
  }
  const { way, device, protocol, port } = wanted;
  const by = device === "" ? "" : `${way === "in" ? "iifname" : "oifname"} ${quoted(device)} `;
  const match = family === "netdev" ? "" : by;
  return `nft insert rule ${family} ${table} ${chain} ${match}${protocol} ${side} ${port} accept`;
}

function ofFirewalld({ port, protocol }: Let): string {
  return `firewall-cmd --permanent --add-port=${port}/${protocol} && firewall-cmd --reload`;
}

function ofIptables(
  { way, device, protocol, port, isV6 }: Let,
  table: string,
  chain: string,
  side: "sport" | "dport",
  isLegacy: boolean,
): string {
  const program = `${isV6 ? "ip6tables" : "iptables"}${isLegacy ? "-legacy" : ""}`;
  const by = device === "" ? "" : ` ${way === "in" ? "-i" : "-o"} ${device}`;
  return `${program} -w -t ${table} -I ${chain}${by} -p ${protocol} --${side} ${port} -j ACCEPT`;
}

/** Tables that iptables-nft makes have its names, and its chains are in capitals. */
function isOfIptables(family: string, table: string, chain: string): boolean {
  const isNamed = ["filter", "mangle", "nat", "raw", "security"].includes(table);
  const isBuiltIn = chain === chain.toUpperCase() && (family === "ip" || family === "ip6");
  return isNamed && isBuiltIn;
}

/** A name as nft(8) takes it in a shell's word. */
function quoted(device: string): string {
  return /^[a-z_][\w-]*$/i.test(device) ? device : `'"${device}"'`;
}
