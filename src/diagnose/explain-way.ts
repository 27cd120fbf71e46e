/** `explain accept` and `explain connect`: the steps of a packet's way, in words. Pure. */

import { errnoName } from "../../ffi/errno.ts";
import { RTN_LOCAL } from "../../ffi/netlink/constants.ts";
import { formatAddress } from "../net/address.ts";
import { concludeAt, type Explanation } from "./explanation.ts";
import { type Finding, failure, fine } from "./finding.ts";
import { endpointText, findSocket } from "./lookup.ts";
import type { RouteLookup } from "./machine.ts";
import { describe, judgePath, wayChecks } from "./path-checks.ts";
import { isLocal, type PathFacts } from "./path-facts.ts";
import { bestRoute } from "./policy.ts";

/** How a listener comes to have a connection for an address, or does not. */
export function explainAccept(facts: PathFacts): Explanation {
  const { packet, wanted, sockets } = facts;
  const [firewall, ...rest] = judgePath(facts, wayChecks);
  const steps = [
    ...(firewall === undefined ? [] : [firewall]),
    rulesStep(facts),
    ...rest.slice(0, -1),
    ...rest.slice(-1).map((answer) => ({
      ...answer,
      text: `${flagText(findSocket(sockets, wanted)?.transparent, packet.protocol)}${answer.text}`,
    })),
  ];
  const to = endpointText(packet.destination.bytes, packet.port);
  const from = `${formatAddress(packet.source)} by ${packet.iif}`;
  return concludeAt(
    steps,
    `a client at ${from} that asks for ${to} is accepted here`,
    `a client at ${from} does not reach ${to} here`,
  );
}

function flagText(transparent: boolean | undefined, protocol: "tcp" | "udp"): string {
  if (protocol === "udp" || transparent !== true) return "";
  return "With IP_TRANSPARENT the route is looked up with FLOWI_FLAG_ANYSRC. ";
}

/** The ip rules in their order, up to the one that decides. */
function rulesStep({ tables, decision, mark, packet }: PathFacts): Finding {
  const tried: string[] = [];
  for (const rule of tables.rules) {
    if (rule === decision?.rule) {
      const route = decision.route;
      const found = route === undefined ? "refuses it" : `finds ${routeText(route, packet)}`;
      tried.push(`${describe(rule)} ${found}`);
      break;
    }
    const isAsked = rule.mark === undefined || ((mark ^ rule.mark) & (rule.mask ?? ~0)) === 0;
    const has = bestRoute(tables.routes, rule.table, packet.destination) !== undefined;
    tried.push(`${describe(rule)} ${isAsked && !has ? "has no route" : "is not for it"}`);
  }
  return fine("ip rules", `With mark 0x${mark.toString(16)}: ${tried.join("; ")}.`);
}

function routeText(
  { type, destination }: NonNullable<ReturnType<typeof bestRoute>>,
  packet: PathFacts["packet"],
): string {
  const bits = destination?.length ?? 0;
  const prefix = bits === 0 ? "default" : `/${bits} of ${formatAddress(packet.destination)}`;
  return type === RTN_LOCAL ? `local ${prefix}` : `a route (${prefix})`;
}

/** What `explain connect` judges by. */
export interface ConnectFacts {
  readonly to: string;
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  /** The source that was asked for; undefined: the kernel's choice. */
  readonly wantedSource: string | undefined;
  readonly source: string | undefined;
  readonly isSourceLocal: boolean;
  readonly capabilities: ReadonlySet<string>;
  readonly route: RouteLookup;
  /** The name of the interface it leaves by. */
  readonly oif: string;
  /** The way of a reply to a source that is not this host's. */
  readonly reply: PathFacts | undefined;
}

/** Whether a connection leaves, and whether its replies come back to its socket. */
export function explainConnect(facts: ConnectFacts): Explanation {
  const { to, port, source, protocol } = facts;
  const steps = [routeStep(facts), sourceStep(facts), ...replySteps(facts)];
  const endpoint = `${protocol}://${to.includes(":") ? `[${to}]` : to}:${port}`;
  return concludeAt(
    steps,
    `what goes from ${source} to ${endpoint} leaves by ${facts.oif}, and its replies come back`,
    `${endpoint} is not reached${source === undefined ? "" : ` from ${source}`}`,
  );
}

function routeStep({ route, to, oif }: ConnectFacts): Finding {
  if (route.kind === "route") {
    const kind = isLocal(route) ? "It is this host's own address: lo" : `It leaves by ${oif}`;
    return fine("route", `${kind}, table ${route.route.table}.`);
  }
  const text =
    `There is no route to ${to}: connect fails with ${errnoName(route.errno)}, and that before ` +
    "the output hook sees a packet, so local capture needs some route as well.";
  return failure("route", text, "ip route add default via GATEWAY dev IFACE");
}

function sourceStep({ source, wantedSource, isSourceLocal, capabilities }: ConnectFacts): Finding {
  if (wantedSource === undefined) return fine("source", `The route chooses ${source}.`);
  if (isSourceLocal) return fine("source", `${source} is an address of this host.`);
  const held = ["CAP_NET_ADMIN", "CAP_NET_RAW"].find((name) => capabilities.has(name));
  if (held === undefined) {
    const text =
      `${source} is not this host's: it takes IP_TRANSPARENT, which needs CAP_NET_ADMIN or ` +
      "CAP_NET_RAW, and this process has neither.";
    return failure("source", text, "sudo tproxy …");
  }
  return fine("source", `${source} is not this host's: IP_TRANSPARENT allows it (${held}).`);
}

/** The way back, for a source that is not this host's: the reply has to be taken in again. */
function replySteps({ reply, source, to, port, oif }: ConnectFacts): Finding[] {
  if (reply === undefined) return [fine("way back", `Replies to ${source} are delivered here.`)];
  const came = `A reply from ${to}:${port} to ${source} by ${oif}`;
  const { passage, marked } = reply;
  if (isLocal(marked)) {
    const by = passage?.marking.at(-1)?.rule;
    const how = by === undefined ? "" : `, since rule ${by} marks it`;
    return [fine("way back", `${came} is delivered to its socket${how}.`)];
  }
  if (passage !== undefined && passage.mark === 0) {
    const [maybe] = passage.unknown;
    const doubt = maybe === undefined ? "" : ` (rule ${maybe.rule} could not be read)`;
    const text =
      `${came} is marked by no firewall rule${doubt}, so it is not this host's. The replies of ` +
      "spoofed connections need DIVERT: socket transparent 1, socket wildcard 0, mark.";
    return [failure("way back", text, "tproxy routes --print --reply-path")];
  }
  const found = judgePath(reply, wayChecks.slice(1, 2));
  return found.map((each) => ({ ...each, check: "way back", text: `${came}. ${each.text}` }));
}
