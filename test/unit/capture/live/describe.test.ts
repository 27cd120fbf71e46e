/** Firewall rules in words close to nft's: those of plans, and what others have added to them. */

import { expect, test } from "bun:test";
import { NFPROTO_INET, NFT_REG_1 } from "../../../../ffi/netlink/constants.ts";
import { compare } from "../../../../ffi/netlink/nftables/expr/cmp.ts";
import { NFT_CT_MARK } from "../../../../ffi/netlink/nftables/expr/ct.ts";
import { immediate } from "../../../../ffi/netlink/nftables/expr/immediate.ts";
import { redirect } from "../../../../ffi/netlink/nftables/expr/redir.ts";
import { socketControlGroup } from "../../../../ffi/netlink/nftables/expr/socket.ts";
import type { Expression } from "../../../../ffi/netlink/nftables/expressions.ts";
import { hostOrder64, networkOrder16 } from "../../../../ffi/netlink/nftables/registers.ts";
import { describeFirewallRule } from "../../../../src/capture/live/describe.ts";

const cases: [words: string, expressions: readonly Expression[]][] = [
  ["redirect to :50080", [immediate(networkOrder16(50080)), redirect()]],
  ["socket cgroupv2 level 2 0x0700000000000000", [socketControlGroup(2), compare(hostOrder64(7n))]],
  [
    "ct set quota log",
    [
      { kind: "ct set", key: NFT_CT_MARK, sreg: NFT_REG_1 },
      { kind: "quota", bytes: 5n, consumed: 0n, flags: 0 },
      { kind: "other", name: "log", data: new Uint8Array() },
    ],
  ],
];

test.each(cases)("%s", (words, expressions) => {
  const rule = { family: NFPROTO_INET, table: "t", chain: "c", expressions };
  expect(describeFirewallRule(rule, [])).toBe(words);
});
