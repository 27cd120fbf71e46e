/** Act 3, and most of act 5: a client elsewhere reaches an address that nobody has. */

import { RTN_LOCAL } from "../../ffi/netlink/constants.ts";
import { renderNft } from "../capture/render/nft.ts";
import { formatAddress } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { addresses, commandsOf, patientMs, webPort } from "./addresses.ts";
import type { Context, Scenario } from "./context.ts";
import { type Attempt, Topology } from "./topology.ts";

export const reachAct: Scenario = {
  title: "A client elsewhere reaches an address that nobody has",
  intro:
    "The client 192.0.2.2 has a cable to the box and its default route over it. The box takes in " +
    "what is for 8.8.8.8:80, with a mark, an ip rule and a local route:",
  play: async (context) => {
    await using scene = await Topology.set(4, context);
    await playReach(context, scene);
  },
};

/** The client is answered, and the listener sees both real addresses. */
export async function playReach({ report }: Context, scene: Topology): Promise<void> {
  const { family, plan } = scene;
  report.commands(commandsOf(renderNft(plan)));
  const server = await scene.listen(true);
  const attempt = await scene.attempt(patientMs);
  const { answered, seen, verdict } = attempt;
  const connection = answered.connected ? await server.conversation() : undefined;
  report.output("listener", server.takeLines());
  const foreign = formatSocketAddress({
    address: addresses[family].foreign.bytes,
    port: webPort,
    scopeId: 0,
  });
  const client = formatAddress(addresses[family].client);
  report.claim({
    step: `reached-v${family}`,
    text: `${client} asked ${foreign} over the cable and was told "hello world".`,
    ok: answered.text === "hello world\n",
    evidence: { received: answered.text, ended: verdict.step, path: verdict.evidence },
    because: answered.connected ? [] : [verdict.reason],
  });
  report.claim({
    step: `both-addresses-v${family}`,
    text: "The listener sees both real addresses, the client's own and the one it asked for.",
    ok: connection?.client === answered.local && connection.local === foreign,
    evidence: { client: connection?.client ?? null, local: connection?.local ?? null },
  });
  report.claim({
    step: `by-the-mark-v${family}`,
    text:
      `It is the mark that did it: the rule counted ${seen.marking.packets} packets, and the ` +
      `kernel routes one with the mark to this host, one without it nowhere.`,
    ok: isByTheMark(attempt),
    evidence: { path: verdict.evidence },
  });
}

function isByTheMark({ seen: { marking, marked, unmarked } }: Attempt): boolean {
  const isLocal = marked.kind === "route" && marked.type === RTN_LOCAL;
  return marking.packets > 0 && isLocal && unmarked.kind === "error";
}
