/** The capabilities that listeners and `forward` need at their start. */

import type { IntentRequest } from "../capture/plan/intent.ts";
import type { Listener, Service } from "../config/service.ts";
import {
  answerNeeds,
  bindNeeds,
  clientPortNeeds,
  type Need,
  ruleNeeds,
} from "../diagnose/checks/privileges.ts";
import type { PortRange } from "../net/port.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { bindAddress } from "./endpoints.ts";
import { portStart } from "./privileges.ts";

/** The needs of sockets that receive, and of the answers of UDP ones by rules of others. */
export function socketNeeds(wanted: readonly Listener[], transparent: boolean): Need[] {
  const start = portStart();
  const own = transparent ? answers(wanted, undefined, start) : [];
  return [...listenNeeds(wanted, transparent, start), ...own];
}

/**
 * The needs of `forward`, except those of its connections to upstreams. `unbound` are the listeners
 * that have no socket yet.
 */
export function forwardNeeds(
  { listen, ingress, route: { source } }: Service,
  installsRules: boolean,
  request: IntentRequest,
  unbound: readonly Listener[] = listen,
): Need[] {
  const start = portStart();
  const { transparent } = ingress;
  const captured = installsRules ? (request.ports ?? portsOf(listen)) : undefined;
  const keepsPort = source.kind === "client" && source.keepPort;
  return [
    ...listenNeeds(unbound, transparent, start),
    ...(transparent ? answers(listen, captured, start) : []),
    ...(keepsPort ? clientPortNeeds(start) : []),
    ...(installsRules ? ruleNeeds("apply routes") : []),
  ];
}

/**
 * What a process keeps for services that the kernel carries: to change their rules, and for the
 * next process of an upgrade, which is started with no more and may find that the relay has to
 * carry them.
 */
export function carriedNeeds(
  carried: readonly { readonly service: Service; readonly request: IntentRequest }[],
): Need[] {
  return carried.flatMap(({ service, request }) => forwardNeeds(service, true, request));
}

/** Of those that receive UDP. */
function answers(
  wanted: readonly Listener[],
  captured: readonly PortRange[] | undefined,
  start: number | undefined,
): Need[] {
  const udp = wanted.filter(({ protocol }) => protocol === "udp");
  const listeners = udp.map(({ endpoint }) => endpoint.port);
  return udp.length === 0 ? [] : answerNeeds({ listeners, captured }, start);
}

function listenNeeds(
  wanted: readonly Listener[],
  transparent: boolean,
  start: number | undefined,
): Need[] {
  return wanted.flatMap(({ protocol, endpoint }) => {
    const name = `${protocol}://${formatSocketAddress(bindAddress(endpoint))}`;
    return bindNeeds({ name, port: endpoint.port, transparent }, start);
  });
}

/** The listeners' own ports: what `--routes auto` captures unless more is said. */
function portsOf(wanted: readonly Listener[]): PortRange[] {
  return wanted.map(({ endpoint: { port } }) => ({ from: port, to: port }) as PortRange);
}
