/** What cases of nft(8) have in common: the table that they change, and their beginnings. */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 } from "../../../ffi/netlink/constants.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import * as nft from "../../../ffi/netlink/nftables/statements.ts";

export const inet = { family: NFPROTO_INET, table: "t" };
const chains = [
  "add table inet t",
  "add chain inet t pre { type filter hook prerouting priority mangle; }",
  "add chain inet t aside",
  "add set inet t nets { type ipv4_addr; flags interval; }",
  "add set inet t hosts { type ipv6_addr; }",
];
export const setup = `nft '${chains.join("; ")}'`;

export const [v4, v6] = [nft.family(NFPROTO_IPV4), nft.family(NFPROTO_IPV6)];
export const [tcp, udp] = [nft.protocol(IPPROTO_TCP), nft.protocol(IPPROTO_UDP)];

/** A rule of the chain `pre`, as nft(8) writes it and as expressions. */
export function ruleCase(
  text: string,
  ...expressions: readonly (Expression | readonly Expression[])[]
) {
  const comment = /comment "(.*)"/.exec(text)?.[1];
  const rule = { ...inet, chain: "pre", expressions: expressions.flat() };
  const message = newFirewallRule(comment === undefined ? rule : { ...rule, comment });
  return { command: `nft 'add rule inet t pre ${text}'`, setup, messages: [message] };
}
