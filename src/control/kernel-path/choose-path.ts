/** Decides which services the kernel carries, from their settings and what this host is like. */

import type { IntentRequest } from "../../capture/plan/intent.ts";
import { type Obstacle, pathObstacles } from "../../config/kernel-path.ts";
import type { Configuration, Service } from "../../config/service.ts";
import { readSysctl } from "../../diagnose/snapshot/proc.ts";
import type { Address, Family } from "../../net/address.ts";
import { isOwnAddress } from "../server/capturing.ts";
import { ServiceProblem } from "../server/issues.ts";
import type { UpstreamList } from "../upstreams.ts";
import { addressOf, familiesOf } from "./describe-service.ts";

/** A service, and what has to be known to carry it. */
export interface PathCandidate {
  readonly service: Service;
  readonly request: IntentRequest;
  readonly upstreams: UpstreamList;
}

/**
 * Why the kernel does not carry a service; empty: it does. Undefined: the relay was asked for.
 * @throws ServiceProblem where the kernel was asked for and cannot
 */
export function pathOf(
  { service, request, upstreams }: PathCandidate,
  { routes }: Configuration,
): readonly Obstacle[] | undefined {
  if (service.path.kind === "relay") return undefined;
  const forwards = ([4, 6] as const).filter((each) => routes.sysctl || isForwarding(each));
  const obstacles = pathObstacles(service, {
    installs: routes.install === "auto",
    families: familiesOf(service, request),
    upstreams: upstreams.fixed.map(addressOf),
    forwards,
    isOwn: ({ bytes }: Address) => isOwnAddress(bytes),
  });
  const [first] = obstacles;
  if (first === undefined || service.path.kind === "auto") return obstacles;
  throw new ServiceProblem(service.name, { path: ["path"], code: "not-in-kernel", args: first });
}

/**
 * Parts services into those that the kernel carries and those of the relay; `notes` are the lines
 * about services that might have been the kernel's. @throws ServiceProblem
 */
export function choosePaths(
  candidates: readonly PathCandidate[],
  configuration: Configuration,
  relayed: (service: string, obstacles: readonly Obstacle[]) => string,
): {
  readonly carried: readonly PathCandidate[];
  readonly relayed: readonly Service[];
  readonly notes: readonly string[];
} {
  const all = candidates.map((each) => ({ each, obstacles: pathOf(each, configuration) }));
  const isCarried = ({ obstacles }: (typeof all)[number]) => obstacles?.length === 0;
  return {
    carried: all.filter(isCarried).map(({ each }) => each),
    relayed: all.filter((one) => !isCarried(one)).map(({ each }) => each.service),
    notes: all.flatMap(({ each: { service }, obstacles = [] }) =>
      obstacles.length === 0 ? [] : [relayed(service.name, obstacles)],
    ),
  };
}

/** Whether this host forwards packets of a family. */
function isForwarding(family: Family): boolean {
  const name = family === 4 ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding";
  return readSysctl(name) === 1;
}
