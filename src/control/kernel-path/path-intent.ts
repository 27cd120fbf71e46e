/** The intent of all services that the kernel carries, from their upstreams of this moment. */

import { SyscallError } from "../../../ffi/errno.ts";
import { decodeLink, getLink } from "../../../ffi/netlink/link.ts";
import { decodeRoute, getRoute } from "../../../ffi/netlink/route.ts";
import type { PathIntent, PathTimeouts } from "../../capture/kernel-path/intent.ts";
import { makePathPlan } from "../../capture/kernel-path/plan.ts";
import type { Kernel } from "../../capture/live/kernel.ts";
import type { Plan } from "../../capture/plan/plan.ts";
import type { Configuration, Service } from "../../config/service.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { bindAddress } from "../endpoints.ts";
import { isOwnAddress } from "../server/capturing.ts";
import type { PathCandidate } from "./choose-path.ts";
import { familiesOf, pathService, type StandingOf, upstreamsOf } from "./describe-service.ts";
import type { FlowWatch } from "./flow-watch.ts";
import { flowtableLinks } from "./flowtable-links.ts";
import type { NumberedService } from "./held-path.ts";
import { PathSlots, type PathUpstream } from "./path-slots.ts";

/** A service that the kernel carries. */
export interface Carried extends PathCandidate {
  readonly number: number;
  readonly timeouts: PathTimeouts;
  readonly slots: PathSlots;
  /** Undefined: it is not in force yet. */
  readonly watch: FlowWatch | undefined;
}

/** What has to be known besides the services. */
interface PathContext {
  readonly routes: Configuration["routes"];
  /** Rules carry the services' names. */
  readonly isNamed: boolean;
  /** Undefined: the rules are for print, and nothing is asked of this host. */
  readonly kernel?: Kernel;
  /** Undefined: all upstreams take connections. */
  readonly standingOf?: StandingOf;
}

/** A service as it is before it is carried. */
export function unwatched(
  candidate: PathCandidate,
  { number, slots: before }: NumberedService,
): Carried {
  const { service, request } = candidate;
  const { timeouts } = pathService(service, request, number, isOwnAddress);
  const slots = new PathSlots(service.route.pool, before);
  return { ...candidate, number, timeouts, slots, watch: undefined };
}

/** The intent of these services. */
export function pathIntent(
  carried: readonly Carried[],
  { routes, isNamed, kernel, standingOf }: PathContext,
): PathIntent {
  const all = carried.map(({ service, request, upstreams, number, slots, watch }) => {
    const endpoints = upstreamsOf(service.route.pool, upstreams, standingOf);
    watch?.replace(endpoints);
    const families = familiesOf(service, request);
    const pools = families.map((each) => {
      return slots.assign(each, endpoints, watch?.health, watch?.load);
    });
    const own = pathService(service, request, number, isOwnAddress);
    const remote = endpoints.filter(({ address }) => {
      return families.includes(address.family) && !isOwnAddress(address.bytes);
    });
    return { service: { ...own, name: isNamed ? service.name : undefined, pools }, remote };
  });
  const remote = all.flatMap((each) => each.remote);
  const services = all.map(({ service }) => service);
  const offloads = services.some(({ offload }) => offload);
  return {
    tableName: tableNameOf(routes),
    services,
    sameLink: kernel === undefined ? [] : linksTo(kernel, remote),
    offload: kernel !== undefined && offloads ? flowtableLinks(kernel) : [],
    forwards: ([4, 6] as const).filter((family) =>
      remote.some(({ address }) => address.family === family),
    ),
    sysctl: routes.sysctl ?? false,
    onExit: routes["on-exit"] ?? "open",
    listeners: carried.flatMap(({ service }) => listenersOf(service)),
  };
}

/** The name of the firewall table, unless somebody has it. */
export function tableNameOf(routes: Configuration["routes"]): string {
  return routes["table-name"] ?? "tproxyd";
}

/** What a service listens at, as texts that are the same after every start. */
export function listenersOf({ listen }: Pick<Service, "listen">): string[] {
  return listen.map(({ protocol, endpoint }) => {
    return `${protocol}://${formatSocketAddress(bindAddress(endpoint))}`;
  });
}

/** The Plan of a service that is not running, for print. */
export function printedPlan(candidate: PathCandidate, { routes }: Configuration): Plan {
  return makePathPlan(
    pathIntent([unwatched(candidate, { number: 1, slots: undefined })], { routes, isNamed: false }),
  );
}

/** The interfaces by which hosts are reached, each once. */
function linksTo(kernel: Kernel, hosts: readonly PathUpstream[]): string[] {
  const found = hosts.flatMap(({ address }) => {
    try {
      const { oif } = kernel.route.get(getRoute({ destination: address.bytes }), decodeRoute);
      return oif === undefined ? [] : [kernel.route.get(getLink({ index: oif }), decodeLink).name];
    } catch (error) {
      if (error instanceof SyscallError) return [];
      throw error;
    }
  });
  return [...new Set(found)].filter((name) => name !== "lo");
}
