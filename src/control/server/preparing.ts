/**
 * Everything that the services of a configuration need before Workers run them: checked, looked up
 * and opened, beside what is there already. Nothing that runs is changed by it.
 */

import type { IntentRequest } from "../../capture/plan/intent.ts";
import type { Pool } from "../../config/pool.ts";
import type { Configuration, Service } from "../../config/service.ts";
import { ruleNeeds } from "../../diagnose/checks/privileges.ts";
import { nameStartMs } from "../../engine/limits.ts";
import { CommandError } from "../../errors.ts";
import type { ReleasedSockets } from "../../workers/pool.ts";
import { checkForward } from "../connecting.ts";
import { raiseDescriptorLimit } from "../descriptors.ts";
import type { InheritedSockets } from "../inherited-sockets.ts";
import { choosePaths, type PathCandidate } from "../kernel-path/choose-path.ts";
import { LeavingSockets } from "../leaving-sockets.ts";
import { closeSockets, type OpenSocket } from "../listeners.ts";
import { captureDoubts } from "../no-capture.ts";
import { loweredBounds, type Sharing } from "../places.ts";
import { checkPrivileges } from "../privileges.ts";
import type { ProcessIo } from "../process-io.ts";
import { UpstreamList } from "../upstreams.ts";
import { captureRequest } from "./captures.ts";
import { type DescriptorShare, descriptorShares } from "./descriptor-shares.ts";
import { ServiceProblem } from "./issues.ts";
import { planListeners, type WantedSockets } from "./listener-plan.ts";
import { MovedSockets } from "./moved-sockets.ts";
import {
  type OpenService,
  openListeners,
  openService,
  type RunningService,
  refuseSelf,
} from "./running-service.ts";
import type { ServerSettings } from "./settings.ts";
import { protocolsOf } from "./tasks.ts";

/** The upstreams of a pool that services use. */
export interface PoolInUse {
  readonly pool: Pool;
  readonly list: UpstreamList;
}

/** The parts that run already. */
export interface Surroundings {
  readonly settings: ServerSettings;
  readonly workers: number;
  readonly running: ReadonlyMap<string, RunningService>;
  /** By the name of a pool. */
  readonly lists: ReadonlyMap<string, PoolInUse>;
  readonly ownAddresses: readonly Uint8Array[];
  readonly inherited?: InheritedSockets | undefined;
}

export interface Prepared {
  readonly services: readonly OpenService[];
  /** Those that the kernel carries: they have no sockets. */
  readonly carried: readonly PathCandidate[];
  /** By the name of a pool: those that stay, and new ones. */
  readonly lists: ReadonlyMap<string, PoolInUse>;
  /** By the name of a service that runs: the listeners that it gives up. */
  readonly released: ReadonlyMap<string, readonly ReleasedSockets[]>;
  /** The listeners that it closes, and those that take their places. */
  readonly leaving: LeavingSockets;
  /** A line for each thing that may not work as it is meant. */
  readonly doubts: readonly string[];
  /** Closes all that is new. */
  discard(): void;
}

/** The services of a configuration that are to run. */
export function enabledServices(
  { services }: Configuration,
  held: ReadonlyMap<string, unknown> = new Map(),
): readonly Service[] {
  return services.filter(({ name, isEnabled }) => isEnabled && !held.has(name));
}

/**
 * Prepares `services` of a configuration.
 * @throws ServiceProblem for a service that contradicts itself or this host; CommandError for
 * what the system refuses. Then nothing is left that was opened.
 */
export async function prepare(
  configuration: Configuration,
  services: readonly Service[],
  around: Surroundings,
): Promise<Prepared> {
  const { settings, running } = around;
  const { requests, doubts } = check(configuration, services, settings, around.inherited);
  const lists = await resolvePools(services, around);
  const opened: OpenSocket[][] = [];
  let leaving = new LeavingSockets([]);
  const moved = new MovedSockets(running.values());
  const discard = () => {
    closeSockets(opened);
    leaving.restore();
    moved.restore();
    for (const [key, { list }] of lists) if (around.lists.get(key)?.list !== list) list.close();
  };
  try {
    const candidates = services.map((each) => ({
      ...{ service: each, request: requests.get(each) ?? {} },
      upstreams: (lists.get(each.route.pool.name) as PoolInUse).list,
    }));
    const { carried, relayed, notes } = choosePaths(
      candidates,
      configuration,
      settings.words.relayed,
    );
    if (carried.length > 0) checkPrivileges(ruleNeeds("apply routes"));
    const shares = sharesOf(relayed, around);
    doubts.push(...notes, ...lowered(relayed, shares, configuration, around));
    const plan = planListeners([...running.values()], relayed);
    leaving = new LeavingSockets(plan.closed);
    const open = plan.wanted.map((wanted) => {
      const { service, kept } = wanted;
      moved.adapt(wanted);
      const sets = openMissing(service, kept, around, leaving);
      opened.push(...sets.opened);
      const { list } = lists.get(service.route.pool.name) as PoolInUse;
      const share = shares.get(service) as DescriptorShare;
      return openService(service, requests.get(service) ?? {}, sets.all, list, share);
    });
    for (const each of open) refuseSelf(each, around.ownAddresses);
    if (configuration.routes.install === "none") {
      const { uncaptured } = settings.words;
      doubts.push(...new Set(open.flatMap((each) => doubtsOf(each, uncaptured))));
    }
    const { released } = plan;
    return { services: open, carried, lists, released, leaving, doubts, discard };
  } catch (error) {
    discard();
    throw error;
  }
}

/** The checks for which nothing is opened. @throws ServiceProblem, CommandError */
export function check(
  { routes }: Configuration,
  services: readonly Service[],
  { io, words }: Pick<ServerSettings, "io" | "words">,
  inherited?: InheritedSockets,
): { requests: Map<Service, IntentRequest>; doubts: string[] } {
  const say = (line: string) => notice(io, line);
  const requests = new Map(services.map((each) => [each, captureRequest(each, routes, say)]));
  const doubts = services.flatMap((service) =>
    checkForward(
      service,
      routes.install === "auto",
      requests.get(service) ?? {},
      words.ownSource,
      inherited,
    ),
  );
  return { requests, doubts };
}

/** Whether nothing brings a service the packets that it is there for; a line if so. */
function doubtsOf({ service, sockets }: OpenService, advice: string): string[] {
  return captureDoubts(
    service,
    sockets.map(({ local }) => local),
    advice,
  );
}

/** The bounds of a service. */
export function sharingOf({ service, share }: OpenService, workers: number): Sharing {
  return { limits: service.limits, workers, descriptors: share };
}

/** A service whose bounds stay gets no more than it has: its parts were made for that. */
function sharesOf(
  services: readonly Service[],
  { workers, running }: Surroundings,
): Map<Service, DescriptorShare> {
  const listeners = services.reduce((sum, { listen }) => sum + listen.length, 0) * workers;
  const total = Math.max(1, raiseDescriptorLimit() - listeners);
  const shares = descriptorShares(total, services, workers);
  for (const [service, share] of shares) {
    const known = running.get(service.name);
    if (known === undefined) continue;
    if (JSON.stringify(known.service.limits) !== JSON.stringify(service.limits)) continue;
    const least = (protocol: "tcp" | "udp") => {
      const had = known.share[protocol];
      return had === 0 ? share[protocol] : Math.min(had, share[protocol]);
    };
    shares.set(service, { tcp: least("tcp"), udp: least("udp") });
  }
  return shares;
}

/** On standard error: there may be no log yet. */
function notice({ stderr }: ProcessIo, line: string): void {
  void stderr.write(`tproxy: ${line}\n`);
}

/** A line for each bound that is lowered. @throws CommandError with them, if it is strict */
function lowered(
  services: readonly Service[],
  shares: ReadonlyMap<Service, DescriptorShare>,
  { strictLimits }: Configuration,
  { settings: { words }, workers }: Surroundings,
): string[] {
  const lines = services.flatMap((service) => {
    const descriptors = shares.get(service) as DescriptorShare;
    const sharing = { limits: service.limits, workers, descriptors };
    return loweredBounds(sharing, protocolsOf(service)).map((each) =>
      words.lowered(service.name, each),
    );
  });
  if (lines.length === 0 || !strictLimits) return lines;
  throw new CommandError(`Cannot start by ${words.strictLimits}: ${lines.join("; ")}`);
}

/** The upstreams of all pools that the services use. @throws ServiceProblem */
async function resolvePools(
  services: readonly Service[],
  { settings: { isNameless }, lists }: Surroundings,
): Promise<Map<string, PoolInUse>> {
  const users = new Map(services.map((each) => [each.route.pool.name, each]));
  const found = await Promise.all(
    [...users].map(
      async ([
        key,
        {
          name,
          route: { pool },
          dial,
        },
      ]) => {
        const known = lists.get(key);
        if (known !== undefined && hasSameTargets(known.pool, pool)) {
          return [key, { pool, list: known.list }] as const;
        }
        const waitMs = isNameless ? Number.POSITIVE_INFINITY : nameStartMs;
        const list = await UpstreamList.resolve(targetsOf(pool), dial.mark, waitMs);
        if (!isNameless || !list.isUnknown) return [key, { pool, list }] as const;
        const { problems } = list;
        list.close();
        throw new ServiceProblem(name, { path: ["to"], code: "no-upstream", args: { problems } });
      },
    ),
  );
  return new Map(found);
}

function targetsOf({ upstreams }: Pool) {
  return upstreams.map(({ to }) => to);
}

/** Whether two pools name the same upstreams: then what was looked up stays. */
function hasSameTargets(a: Pool, b: Pool): boolean {
  return JSON.stringify(targetsOf(a)) === JSON.stringify(targetsOf(b));
}

/** The sockets of each Worker, of which those that are not there are opened. */
function openMissing(
  service: Service,
  kept: WantedSockets<Service>["kept"],
  { workers, settings, inherited }: Surroundings,
  leaving: LeavingSockets,
) {
  const missing = service.listen.filter((_, i) => kept[i] === undefined);
  const opened = openListeners({ ...service, listen: missing }, workers, settings.user, {
    inherited,
    leaving,
  });
  const all = opened.map((set, worker) => {
    const fresh = set.values();
    return kept.map((sockets) => (sockets?.[worker] ?? fresh.next().value) as OpenSocket);
  });
  return { opened, all };
}
