/** Whether this process has the capabilities for what it was asked, found out before it starts. */

import { heldCapabilities } from "../diagnose/capabilities.ts";
import {
  answerNeeds,
  bindNeeds,
  clientPortNeeds,
  explainUnmet,
  type Need,
  ruleNeeds,
  unmet,
} from "../diagnose/privileges.ts";
import { readSysctl } from "../diagnose/proc.ts";
import type { PortRange } from "../net/port.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import type { IntentRequest } from "../routing/intent.ts";
import { bindAddress } from "./endpoints.ts";
import { CommandError } from "./failure.ts";
import type { ForwardOptions } from "./forward-options.ts";
import type { WantedSocket } from "./open-socket.ts";

/**
 * Compares `needs` with what this process has.
 * @returns a line for each of those that the command can do without
 * @throws CommandError with one line about all others that are not met
 */
export function checkPrivileges(needs: readonly Need[]): string[] {
  const held = heldCapabilities();
  const missing = unmet(needs, held);
  const fatal = missing.filter(({ otherwise }) => otherwise === undefined);
  const [first] = fatal;
  if (first !== undefined) {
    throw new CommandError(`Cannot ${first.action}: ${explainUnmet(fatal, held)}`);
  }
  return missing.map((need) => explainUnmet([need], held));
}

/** The ports that every process may bind begin here; undefined if that cannot be read. */
export function portStart(): number | undefined {
  return readSysctl("net.ipv4.ip_unprivileged_port_start");
}

/** The needs of sockets that receive, and of the answers of UDP ones by rules of others. */
export function socketNeeds(wanted: readonly WantedSocket[], transparent: boolean): Need[] {
  const own = transparent ? answers(wanted, undefined, portStart()) : [];
  return [...listenNeeds(wanted, transparent), ...own];
}

/** The needs of `forward`, but for those of its connections to upstreams. */
export function forwardNeeds(
  options: ForwardOptions,
  wanted: readonly WantedSocket[],
  request: IntentRequest,
): Need[] {
  const start = portStart();
  const { redirect, noTransparent, source, routes } = options;
  const transparent = !(noTransparent || redirect);
  const captured = routes === "auto" ? (request.ports ?? portsOf(wanted)) : undefined;
  const keepsPort = source.kind === "client" && source.keepPort;
  return [
    ...listenNeeds(wanted, transparent),
    ...(transparent ? answers(wanted, captured, start) : []),
    ...(keepsPort ? clientPortNeeds(start) : []),
    ...(routes === "auto" ? ruleNeeds("apply routes") : []),
  ];
}

/** Of those that receive UDP. */
function answers(
  wanted: readonly WantedSocket[],
  captured: readonly PortRange[] | undefined,
  start: number | undefined,
): Need[] {
  const udp = wanted.filter(({ protocol }) => protocol === "udp");
  const listeners = udp.map(({ endpoint }) => endpoint.port);
  return udp.length === 0 ? [] : answerNeeds({ listeners, captured }, start);
}

function listenNeeds(wanted: readonly WantedSocket[], transparent: boolean): Need[] {
  const start = portStart();
  return wanted.flatMap(({ protocol, endpoint }) => {
    const name = `${protocol}://${formatSocketAddress(bindAddress(endpoint))}`;
    return bindNeeds({ name, port: endpoint.port, transparent }, start);
  });
}

/** The listeners' own ports: what `--routes auto` captures unless more is said. */
function portsOf(wanted: readonly WantedSocket[]): PortRange[] {
  return wanted.map(({ endpoint: { port } }) => ({ from: port, to: port }) as PortRange);
}
