/** Connections of a service by which its way through the kernel is judged. No I/O. */

import type { IntentRequest } from "../../capture/plan/intent.ts";
import type { Service } from "../../config/service.ts";
import { sampleEnds } from "../../diagnose/sample.ts";
import type { CarriedQuestion } from "../../diagnose/snapshot/carried-facts.ts";
import type { HostSnapshot } from "../../diagnose/snapshot/host.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { addressBits } from "../../net/cidr.ts";
import { isUnspecified } from "../../net/ip.ts";
import { protocolsOf } from "../server/tasks.ts";

/** The upstreams that are addresses, and the names of others. */
export function knownUpstreams({ route }: Pick<Service, "route">) {
  const known: { readonly address: Address; readonly port: number }[] = [];
  const names: string[] = [];
  for (const { to } of route.pool.upstreams) {
    if (to === "original") continue;
    if (typeof to.host === "string") names.push(to.host);
    else known.push({ address: to.host, port: to.port });
  }
  return { known, names };
}

/**
 * One connection for each protocol of a service and each upstream, of a client that `request`
 * captures; what that leaves open is taken from the host. `table`: the name of our firewall table.
 */
export function carriedQuestions(
  service: Service,
  request: IntentRequest,
  machine: HostSnapshot,
  table: string | undefined,
): CarriedQuestion[] {
  const { known } = knownUpstreams(service);
  const keepsClient = service.route.source.kind === "client";
  return protocolsOf(service).flatMap((protocol) =>
    known.flatMap((upstream): CarriedQuestion[] => {
      const { family } = upstream.address;
      const listener = service.listen.find((each) => {
        const { address } = each.endpoint;
        return each.protocol === protocol && (address === undefined || address.family === family);
      });
      const { address, port = 80 } = listener?.endpoint ?? {};
      const own = address === undefined || isUnspecified(address.bytes) ? [] : [networkOf(address)];
      const selected = {
        destinations: request.destinations ?? own,
        sources: request.sources ?? [],
        interfaces: request.interfaces ?? [],
      };
      const ends = sampleEnds(selected, machine, family);
      const packet = { protocol, port: request.ports?.[0]?.from ?? port, ...ends };
      const to = upstream.port === 0 ? { ...upstream, port: packet.port } : upstream;
      return [{ packet, upstream: to, keepsClient, table }];
    }),
  );
}

/** A question in words, for a heading. */
export function questionTitle({ packet, upstream }: CarriedQuestion): string {
  const { protocol, source, iif, destination, port } = packet;
  const at = (address: Address, number: number) =>
    address.family === 4
      ? `${formatAddress(address)}:${number}`
      : `[${formatAddress(address)}]:${number}`;
  return (
    `${protocol} from ${formatAddress(source)} by ${iif} to ${at(destination, port)}, carried by ` +
    `the kernel to ${at(upstream.address, upstream.port)}`
  );
}

function networkOf(address: Address) {
  return { ...address, prefix: addressBits(address.family) };
}
