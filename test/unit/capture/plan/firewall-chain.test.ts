/** A chain of another hook, type and priority than today's is printed and sent as it is. */

import { expect, test } from "bun:test";
import { NF_INET_POST_ROUTING } from "../../../../ffi/netlink/constants.ts";
import { decodeChain } from "../../../../ffi/netlink/nftables/chain.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { stepMessages } from "../../../../src/capture/plan/netlink.ts";
import { makePlan, type Plan } from "../../../../src/capture/plan/plan.ts";
import { renderIptables } from "../../../../src/capture/render/iptables.ts";
import { renderNft } from "../../../../src/capture/render/nft.ts";

function planOf(): Plan {
  const intent = parseIntent({ toPort: 50080 });
  if (!intent.ok) throw new Error("no intent");
  const plan = makePlan(intent.value);
  const [captured] = plan.firewall.chains;
  const { rules = [] } = captured ?? {};
  const chain = { name: "masking", type: "nat", hook: "postrouting", priority: 99, rules } as const;
  return { ...plan, firewall: { ...plan.firewall, chains: [chain] } };
}

test("for nft", () => {
  const text = renderNft(planOf());
  expect(text).toContain("chain masking {\n    type nat hook postrouting priority 99;");
  expect(text).toContain("# After routing, ");
});

test("for iptables", () => {
  const text = renderIptables(planOf());
  expect(text).toContain("iptables -w -t nat -N tproxyd-postrouting\n");
  expect(text).toMatch(/iptables -w -t nat -A POSTROUTING .*-j tproxyd-postrouting\n/);
});

test("as messages", () => {
  const step = { kind: "firewall", action: "add", table: planOf().firewall } as const;
  const options = { interfaceIndex: () => 1, counters: false };
  const { messages } = stepMessages(step, options);
  const sent = messages.filter(({ operation }) => operation === "NFT_MSG_NEWCHAIN");
  expect(sent.map(({ body }) => decodeChain(body))).toMatchObject([
    { name: "masking", base: { type: "nat", hook: NF_INET_POST_ROUTING, priority: 99 } },
  ]);
});
