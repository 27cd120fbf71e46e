/** The captures of a server's services: their Intents, once their sockets are open. */

import type { IntentRequest } from "../../capture/plan/intent.ts";
import type { ServiceIntent } from "../../capture/plan/joint-plan.ts";
import type { Service } from "../../config/service.ts";
import { isLocalAddress } from "../../diagnose/snapshot/refusal-facts.ts";
import type { OpenSocket } from "../listeners.ts";
import type { Identified } from "../routes-context.ts";
import type { UpstreamList } from "../upstreams.ts";
import { backendOf } from "./backends.ts";
import { intentOf } from "./captures.ts";
import { protocolsOf } from "./tasks.ts";

/** A service that is about to run, or runs. */
export interface CapturingService {
  readonly service: Service;
  readonly request: IntentRequest;
  /** Where it listens; the sockets of one Worker. */
  readonly sockets: readonly OpenSocket[];
  readonly upstreams: Pick<UpstreamList, "fixed">;
}

/** Whether an address is one of this host. */
export function isOwnAddress(address: Uint8Array): boolean {
  return isLocalAddress(address) === true;
}

/**
 * The Intents of the services that capture anything or bring replies back; with `isNamed` rules
 * carry the services' names.
 * @throws ServiceProblem
 */
export function intentsOf(
  services: readonly CapturingService[],
  { request: identity, takenBits }: Identified,
  isNamed: boolean,
): ServiceIntent[] {
  const isMixed = services.some(({ service }) => !service.ingress.redirected);
  return services.flatMap(({ service, request, sockets, upstreams }): ServiceIntent[] => {
    if (isNamed && !mayCapture(service)) return [];
    const { ingress, name } = service;
    // NAT needs neither a mark nor a route, which are there for the others.
    const { tableName } = identity;
    const own = ingress.redirected && isMixed ? withoutRouting(tableName) : identity;
    const intent = intentOf(
      service,
      { ...request, ...own },
      {
        protocols: protocolsOf(service),
        listeners: sockets.map(({ local }) => local),
        backends: upstreams.fixed.map(backendOf),
        isOwn: isOwnAddress,
        takenBits,
      },
    );
    return intent === undefined ? [] : [{ service: isNamed ? name : undefined, intent }];
  });
}

/** One that is not transparent accepts what is sent to this host alone, which takes no rules. */
function mayCapture({ ingress, capture }: Service): boolean {
  return ingress.transparent || ingress.redirected || Object.keys(capture).length > 0;
}

function withoutRouting(tableName: string | undefined) {
  return { tableName, mark: undefined, table: undefined, priority: undefined, sysctl: undefined };
}
