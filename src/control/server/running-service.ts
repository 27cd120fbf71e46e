/** A service of a server: its description, its sockets, its upstreams. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { IntentRequest } from "../../capture/plan/intent.ts";
import { networksOf } from "../../config/request.ts";
import type { Service } from "../../config/service.ts";
import { addressKey, isSelf } from "../../forward/dial.ts";
import type { Cidr } from "../../net/cidr.ts";
import { formatUpstream } from "../../net/socket-address.ts";
import type { InheritedSockets } from "../inherited-sockets.ts";
import type { LeavingSockets } from "../leaving-sockets.ts";
import { type OpenSocket, openForWorkers } from "../listeners.ts";
import type { User } from "../passwd.ts";
import type { UpstreamList } from "../upstreams.ts";
import type { CapturingService } from "./capturing.ts";
import type { DescriptorShare } from "./descriptor-shares.ts";
import { ServiceProblem } from "./issues.ts";
import { protocolsOf } from "./tasks.ts";

/** A service whose sockets are open. */
export interface OpenService extends CapturingService {
  /** The sockets of each Worker. */
  readonly sets: readonly (readonly OpenSocket[])[];
  readonly upstreams: UpstreamList;
  /** The networks whose PROXY headers count; undefined: no header is expected. */
  readonly senders: readonly Cidr[] | undefined;
  /** The descriptors that it may have. */
  readonly share: DescriptorShare;
}

/** One that the Workers run. */
export interface RunningService extends OpenService {
  /** Its number in the pool of Workers. */
  readonly id: number;
}

/** Sockets that were there before those of a service. */
interface Predecessors {
  readonly inherited?: InheritedSockets | undefined;
  readonly leaving?: LeavingSockets | undefined;
}

/**
 * Opens the sockets of a service, a set for each Worker; those of `inherited` are taken first.
 * Those that take the place of `leaving` ones receive nothing before `LeavingSockets.replace`.
 * @throws CommandError with the reason why the kernel rejected one; then none is open
 */
export function openListeners(
  service: Service,
  workers: number,
  user: User | undefined,
  { inherited, leaving }: Predecessors = {},
): OpenSocket[][] {
  return openForWorkers(workers, service.listen, {
    ...listenerOptions(service),
    ...{ hasSessions: true, user, inherited, leaving },
  });
}

/** The options of a service's listening sockets. */
export function listenerOptions({ ingress, timeouts }: Service) {
  return {
    savesSyn: true,
    transparent: ingress.transparent,
    clientFirst: ingress.clientFirst,
    noDelay: true,
    keepAliveMs: timeouts.keepAliveMs,
    userTimeoutMs: timeouts.userMs,
  };
}

/** A service with its open sockets. @throws ServiceProblem */
export function openService(
  service: Service,
  request: IntentRequest,
  sets: readonly (readonly OpenSocket[])[],
  upstreams: UpstreamList,
  share: DescriptorShare,
): OpenService {
  const senders = networksOf(service.ingress.acceptProxy);
  if (!senders.ok) {
    const args = { text: senders.error };
    const path = ["accept-proxy"];
    throw new ServiceProblem(service.name, { path, code: "invalid-list", args });
  }
  const [sockets = []] = sets;
  return { service, request, sets, sockets, upstreams, senders: senders.value, share };
}

/**
 * Where connections to an upstream go. One without a port has that of a listener, where nothing but
 * the listener's own port can be the original one.
 */
function goalsOf(
  upstream: SocketAddress,
  { ingress }: Service,
  listeners: readonly SocketAddress[],
): SocketAddress[] {
  const { transparent, redirected, acceptProxy } = ingress;
  const isOpen = transparent || redirected || acceptProxy !== undefined;
  if (upstream.port !== 0 || isOpen) return [upstream];
  return listeners.map(({ port }) => ({ ...upstream, port }));
}

/** @throws ServiceProblem where all that a protocol accepts would go to its own listeners */
export function refuseSelf(
  { service, upstreams, sockets }: OpenService,
  ownAddresses: readonly Uint8Array[],
): void {
  const { fixed } = upstreams;
  if (fixed.length === 0) return;
  const own = new Set(ownAddresses.map(addressKey));
  for (const name of protocolsOf(service)) {
    const listeners = sockets.filter(({ protocol }) => protocol === name).map(({ local }) => local);
    const goals = fixed.flatMap((each) => goalsOf(each, service, listeners));
    if (!goals.every((address) => isSelf({ own, listeners }, address))) continue;
    const [upstream = ""] = goals.map(formatUpstream);
    throw new ServiceProblem(service.name, {
      ...{ path: ["to"], code: "upstream-is-self", args: { upstream } },
    });
  }
}
