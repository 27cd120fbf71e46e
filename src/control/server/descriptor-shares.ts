/**
 * How the descriptors of the process are parted among its services: in equal shares, of which a
 * service gets no more than its own bounds can use. The rest is for those without bounds. Pure.
 */

import type { Service, ServiceLimits } from "../../config/service.ts";
import { queueMax } from "../../engine/limits.ts";
import type { Scheme } from "../../net/target.ts";
import { protocolsOf } from "./tasks.ts";

/** The descriptors of a service, for each protocol that it carries. */
export type DescriptorShare = Readonly<Record<Scheme, number>>;

/** A protocol of a service. */
interface Part {
  readonly service: Service;
  readonly protocol: Scheme;
  /** All that it can use. */
  readonly most: number;
}

/** Parts `total` descriptors among services. No service can take what another one has. */
export function descriptorShares(
  total: number,
  services: readonly Service[],
  workers: number,
): Map<Service, DescriptorShare> {
  const parts = services.flatMap((service) =>
    protocolsOf(service).map((protocol): Part => {
      return { service, protocol, most: mostUsed(service.limits, protocol, workers) };
    }),
  );
  const shares = new Map(services.map((service) => [service, { tcp: 0, udp: 0 }]));
  let left = total;
  // Those that use the least come first: what they leave is for all others.
  const sorted = parts.toSorted((a, b) => a.most - b.most);
  for (const [i, { service, protocol, most }] of sorted.entries()) {
    const share = Math.max(1, Math.floor(Math.min(most, left / (sorted.length - i))));
    (shares.get(service) as Record<Scheme, number>)[protocol] = share;
    left = Math.max(0, left - share);
  }
  return shares;
}

/** The descriptors that the bounds of a service can use at most: with those of pipes. */
function mostUsed(limits: ServiceLimits, protocol: Scheme, workers: number): number {
  const { maxConnections, maxSessions } = limits;
  const wanted = protocol === "tcp" ? maxConnections : maxSessions;
  if (wanted === undefined) return Number.POSITIVE_INFINITY;
  if (protocol === "udp") return 2 * wanted + 2 * workers;
  // Two for a connection and one for each that waits; a quarter of all are for pipes.
  return Math.ceil(((2 * wanted + queueMax * workers) * 4) / 3) + 16 * workers;
}
