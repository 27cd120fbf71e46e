/** The way of the answer: its route, and what OUTPUT and POSTROUTING do with it. Pure. */

import { errnoName } from "../../../ffi/errno.ts";
import { RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNREACHABLE } from "../../../ffi/netlink/constants.ts";
import { formatAddress } from "../../net/address.ts";
import { doubtsOf } from "../nft-evaluator/walk.ts";
import type { RouteLookup } from "../snapshot/host.ts";
import { isLocal, type PathFacts } from "../snapshot/path-facts.ts";
import { type Finding, failure, ok, undecided } from "./finding.ts";
import { doubtText, subject } from "./firewall-words.ts";
import { letThrough } from "./repairs.ts";

/** Routes that refuse what they cover. */
export const deadRoutes: ReadonlyMap<number, string> = new Map([
  [RTN_BLACKHOLE, "a blackhole route"],
  [RTN_UNREACHABLE, "an unreachable route"],
  [RTN_PROHIBIT, "a prohibit route"],
]);

/** Whether the first answer leaves for the client. */
export function checkAnswer(facts: PathFacts): Finding {
  const { back, packet, names, answer } = facts;
  const to = formatAddress(packet.source);
  const from = formatAddress(packet.destination);
  const what = packet.protocol === "tcp" ? "The SYN-ACK" : "An answer";
  if (back.kind === "error" || deadRoutes.has(back.route.type)) {
    const why = back.kind === "error" ? errnoName(back.errno) : deadRoutes.get(back.route.type);
    const text = `${what} from ${from} finds no route to ${to}: ${why}${hint(back)}.`;
    return failure("answer", text, `ip route get ${to}`);
  }
  for (const passage of [answer.output, answer.out]) {
    if (passage?.dropped === undefined) continue;
    const text = `${subject(passage.dropped)} drops ${lower(what)} from ${from} on its way out.`;
    return failure("answer", text, letThrough(passage.dropped, answerPacket(facts), facts.chains));
  }
  const doubts = [answer.output, answer.out].flatMap((each) => (each ? doubtsOf(each) : []));
  if (doubts.length > 0) {
    const leaves = `Whether ${lower(what)} from ${from} leaves`;
    return undecided("answer", doubtText(doubts, leaves), "tproxy doctor --probe DST:PORT");
  }
  const by = names.get(back.route.oif ?? 0) ?? "?";
  const other = by === packet.iif || isLocal(back) ? "" : ", another interface than it came by";
  return ok("answer", `${what} from ${from} leaves for ${to} by ${by}${other}.`);
}

/** The answer as far as a repair looks at it. */
export function answerPacket({ packet, back, names }: PathFacts) {
  const { source, destination, port } = packet;
  const oif = back.kind === "route" ? names.get(back.route.oif ?? 0) : undefined;
  const answer = { ...packet, source: destination, destination: source, sourcePort: port, iif: "" };
  return { ...answer, stage: "answer", ...(oif === undefined ? {} : { oif }) } as const;
}

const lower = (what: string) => what.charAt(0).toLowerCase() + what.slice(1);

/** The errors of a table's routes: fib_props[] of net/ipv4/fib_semantics.c. */
function hint(back: RouteLookup): string {
  const kinds: Record<string, string> = {
    EINVAL: " (as a blackhole route gives)",
    EACCES: " (as a prohibit route gives)",
    EHOSTUNREACH: " (as an unreachable route gives)",
  };
  return back.kind === "error" ? (kinds[errnoName(back.errno)] ?? "") : "";
}
