/** Whether this process may connect to upstreams as it was asked to, found out before it has to. */

import { SyscallError } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import type { IntentRequest } from "../capture/plan/intent.ts";
import type { Service } from "../config/service.ts";
import { explainRefusal } from "../diagnose/explain/refusal.ts";
import { gatherFacts } from "../diagnose/snapshot/refusal-facts.ts";
import { bindSocket } from "../engine/sockets.ts";
import { CommandError } from "../errors.ts";
import { formatBytes } from "../net/address.ts";
import { bindAddress } from "./endpoints.ts";
import type { InheritedSockets } from "./inherited-sockets.ts";
import { forwardNeeds } from "./needs.ts";
import { checkPrivileges } from "./privileges.ts";

/**
 * Whether a service has what it needs, for its listeners, its rules and its connections.
 * `ownSource` is the setting that has connections come from this host. Listeners whose sockets are
 * `inherited` need no privilege to bind.
 * @returns a line for what it can do without
 * @throws CommandError with what it cannot
 */
export function checkForward(
  service: Service,
  installsRules: boolean,
  request: IntentRequest,
  ownSource: string,
  inherited?: InheritedSockets,
): string[] {
  const unbound = service.listen.filter(
    ({ protocol, endpoint }) => !inherited?.has({ protocol, local: bindAddress(endpoint) }),
  );
  const lacks = checkPrivileges(forwardNeeds(service, installsRules, request, unbound));
  return [...lacks, ...checkConnecting(service, ownSource)];
}

/**
 * Makes a socket as the Workers will, and closes it again.
 * @returns why those of clients of other hosts would fail, in one line; empty if they would not
 * @throws CommandError with it where every connection would fail
 */
function checkConnecting(
  { route: { source }, dial: { mark } }: Service,
  ownSource: string,
): string[] {
  const isClients = source.kind === "client";
  const address = source.kind === "address" ? source.address : Uint8Array.of(127, 0, 0, 1);
  const transparent = source.kind !== "self";
  try {
    sys.close(bindSocket({ protocol: "tcp", transparent, mark }, { address, port: 0, scopeId: 0 }));
    return [];
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const from = isClients ? "clients' addresses" : formatBytes(address);
    const attempt = {
      what: `connect from ${source.kind === "self" ? "here" : from}`,
      address: formatBytes(address),
      port: 0,
      isV6: address.length === 16,
      ...{ transparent, freebind: false, device: undefined, remote: undefined },
    };
    const why = explainRefusal(error, attempt, gatherFacts(address));
    // Clients on this host are connected from our own address, which takes no privilege.
    if (isClients && mark === undefined) return [`${why}; or give ${ownSource}`];
    throw new CommandError(why);
  }
}
