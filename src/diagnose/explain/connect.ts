/** `explain connect`: whether a connection leaves, and whether its replies come back. Pure. */

import { errnoName } from "../../../ffi/errno.ts";
import { type Finding, failure, ok, undecided, unknown } from "../checks/finding.ts";
import { doubtText, ruleText, subject } from "../checks/firewall-words.ts";
import { checkDelivery } from "../checks/path.ts";
import { letThrough } from "../checks/repairs.ts";
import { doubtsOf } from "../nft-evaluator/walk.ts";
import type { ConnectFacts } from "../snapshot/connect-facts.ts";
import { isLocal, type PathFacts } from "../snapshot/path-facts.ts";
import { concludeAt, type Explanation } from "./explanation.ts";

/** Walks the decisions until one refuses. */
export function explainConnect(facts: ConnectFacts): Explanation {
  const { to, port, source, protocol } = facts;
  const endpoint = `${protocol}://${to.includes(":") ? `[${to}]` : to}:${port}`;
  return concludeAt(
    connectSteps(facts),
    `what goes from ${source} to ${endpoint} leaves by ${facts.oif}, and its replies come back`,
    `${endpoint} is not reached${source === undefined ? "" : ` from ${source}`}`,
  );
}

/** The findings, in the order of the way. */
export function connectSteps(facts: ConnectFacts): readonly Finding[] {
  return [routeStep(facts), sourceStep(facts), ...outputSteps(facts), ...replySteps(facts)];
}

function routeStep({ route, to, oif, rerouted, source }: ConnectFacts): Finding {
  if (route.kind === "route") {
    const kind = isLocal(route) ? "It is this host's own address: lo" : `It leaves by ${oif}`;
    const first = rerouted === undefined ? kind : "There is a first one";
    return ok("route", `${first}, table ${route.route.table}.`);
  }
  const by = source === undefined ? "" : ` from ${source}`;
  const text =
    `There is no route to ${to}${by}: connect fails with ${errnoName(route.errno)}, and that ` +
    "before the output hook sees a packet, so local capture needs some route as well.";
  return failure("route", text, "ip route add default via GATEWAY dev IFACE");
}

function sourceStep({ source, wantedSource, isSourceLocal, capabilities }: ConnectFacts): Finding {
  if (wantedSource === undefined) return ok("source", `The route chooses ${source}.`);
  if (isSourceLocal) return ok("source", `${source} is an address of this host.`);
  const held = ["CAP_NET_ADMIN", "CAP_NET_RAW"].find((name) => capabilities.has(name));
  if (held === undefined) {
    const text =
      `${source} is not this host's: it takes IP_TRANSPARENT, which needs CAP_NET_ADMIN or ` +
      "CAP_NET_RAW, and this process has neither.";
    return failure("source", text, "sudo tproxy …");
  }
  return ok("source", `${source} is not this host's: IP_TRANSPARENT allows it (${held}).`);
}

/** OUTPUT, the route that a mark of it gives, and POSTROUTING. */
function outputSteps(facts: ConnectFacts): Finding[] {
  const { output, out, packet, chains, rerouted, route, oif } = facts;
  if (route.kind === "error") return [];
  if (output === undefined || packet === undefined) {
    const text = "The firewall's rules cannot be read without CAP_NET_ADMIN.";
    return [unknown("output", text, "sudo tproxy explain …")];
  }
  for (const passage of [output, out]) {
    if (passage?.dropped === undefined) continue;
    const text = `${subject(passage.dropped)} drops it on its way out.`;
    return [failure("output", text, letThrough(passage.dropped, packet, chains))];
  }
  const doubts = [output, out].flatMap((each) => (each === undefined ? [] : doubtsOf(each)));
  if (doubts.length > 0) return [undecided("output", doubtText(doubts, "Whether it leaves"))];
  const marking = output.marking.at(-1);
  const steps: Finding[] = [];
  if (rerouted !== undefined && marking !== undefined) {
    const by = `Rule ${ruleText(marking)} gives it the mark 0x${output.mark.toString(16)}`;
    if (rerouted.kind === "error") {
      const text = `${by}, with which there is no route: ${errnoName(rerouted.errno)}.`;
      return [failure("output", text)];
    }
    const way = isLocal(rerouted) ? "taken in by this host (local capture)" : `routed by ${oif}`;
    steps.push(ok("output", `${by}, and it is ${way}.`));
  } else steps.push(ok("output", "The firewall lets it out."));
  return [...steps, ...rewriteSteps(facts)];
}

/** NAT on the way out: a spoofed source does not survive it. */
function rewriteSteps({ out, packet, chains, isSourceLocal, source, to }: ConnectFacts): Finding[] {
  const rewrite = out?.rewritten.find(({ side }) => side === "source");
  if (rewrite === undefined || packet === undefined) return [];
  if (isSourceLocal) return [];
  const text =
    `Rule ${ruleText(rewrite)} replaces the source ${source} by an address of this host: ${to} ` +
    "does not see the client's.";
  return [failure("nat", text, letThrough(rewrite, packet, chains))];
}

/** The way back; for a source that is not this host's the reply has to be taken in again. */
function replySteps(facts: ConnectFacts): Finding[] {
  const { reply, localReply, source, to, port, oif, isSourceLocal, rerouted } = facts;
  if (localReply !== undefined) return [localStep(facts)];
  if (reply === undefined) {
    return rerouted === undefined ? [] : [ok("way back", "The proxy here answers it.")];
  }
  const came = `A reply from ${to}:${port} to ${source} by ${oif}`;
  const stopped = hookStep(reply, came);
  if (stopped !== undefined) return [stopped];
  if (isSourceLocal && isLocal(reply.marked)) {
    return [ok("way back", `Replies to ${source} are delivered here.`)];
  }
  const { passage, marked } = reply;
  if (isLocal(marked)) {
    const by = passage?.marking.at(-1);
    const how = by === undefined ? "" : `, since rule ${ruleText(by)} marks it`;
    return [ok("way back", `${came} is delivered to its socket${how}.`)];
  }
  if (passage !== undefined && passage.mark === 0) {
    const text =
      `${came} is marked by no firewall rule, so it is not this host's. The replies of spoofed ` +
      "connections need DIVERT: socket transparent 1, socket wildcard 0, mark.";
    return [failure("way back", text, "tproxy routes --print --reply-path")];
  }
  const found = checkDelivery(reply);
  return [{ ...found, check: "way back", text: `${came}. ${found.text}` }];
}

/** The effect of PREROUTING or INPUT on a reply that does not pass. */
function hookStep(reply: PathFacts, came: string): Finding | undefined {
  const { passage, input, packet, chains, rank } = reply;
  for (const hook of [passage, input]) {
    if (hook?.dropped === undefined) continue;
    const text = `${subject(hook.dropped)} drops it: ${came}.`;
    return failure("way back", text, letThrough(hook.dropped, packet, chains));
  }
  const doubts = [
    ...(passage === undefined ? [] : doubtsOf(passage, rank)),
    ...(input === undefined ? [] : doubtsOf(input)),
  ];
  if (doubts.length === 0) return undefined;
  return undecided(
    "way back",
    doubtText(doubts, `Whether ${came.charAt(0).toLowerCase()}${came.slice(1)} gets in`),
  );
}

/** A listener of this host answers a client by the routes to that client. */
function localStep({ localReply, source, to, port, isSourceLocal }: ConnectFacts): Finding {
  const at = to.includes(":") ? `[${to}]:${port}` : `${to}:${port}`;
  const what = `What a socket on ${at} answers to ${source}`;
  if (localReply !== undefined && isLocal(localReply)) {
    return ok("way back", `${what} is delivered here.`);
  }
  const text = `${what} leaves this host instead of coming back to the connection.`;
  if (isSourceLocal) return failure("way back", text);
  return failure("way back", text, `tproxy routes --apply --backend ${at} …`);
}
