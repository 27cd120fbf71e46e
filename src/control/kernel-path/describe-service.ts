/** A service of the configuration as the kernel path has it. Pure, but for own addresses. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Mark, Port } from "../../../ffi/types.ts";
import {
  endpointKey,
  type PathService,
  type PathSource,
  type Selection,
} from "../../capture/kernel-path/intent.ts";
import { guardBit } from "../../capture/live/choose.ts";
import type { IntentRequest } from "../../capture/plan/intent.ts";
import { privateNetworks } from "../../capture/plan/private.ts";
import type { Pool } from "../../config/pool.ts";
import type { Service, Timeouts } from "../../config/service.ts";
import { neverMs } from "../../engine/limits.ts";
import type { Address, Family } from "../../net/address.ts";
import { addressBits } from "../../net/cidr.ts";
import { isUnspecified } from "../../net/ip.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import { bindAddress } from "../endpoints.ts";
import type { Pools } from "../pools/pools.ts";
import type { UpstreamList } from "../upstreams.ts";
import type { PathUpstream } from "./path-slots.ts";

/** What a service takes: of its listeners' own addresses, and what its capture names. */
function selectionsOf(
  service: Service,
  request: IntentRequest,
  isOwn: (address: Uint8Array) => boolean,
): Selection[] {
  const listeners = service.listen.map(({ endpoint }) => bindAddress(endpoint));
  const captures = [
    ...[request.destinations, request.sources, request.ports, request.interfaces],
    ...[request.bypass, request.bypassPrivate, request.local],
  ].some((each) => each !== undefined);
  const bypass = [
    ...(request.bypass ?? []),
    ...(request.bypassPrivate === true ? privateNetworks : []),
  ];
  const ports = portsOf(listeners);
  const isForeign = ({ address }: SocketAddress) => !isUnspecified(address) && !isOwn(address);
  const every = { sources: [], interfaces: [], bypass: [] };
  const named = listeners
    .filter(({ address }) => !isUnspecified(address))
    .map(
      (each): Selection => ({ ...every, destination: [networkOf(each)], ports: portsOf([each]) }),
    );
  const any = listeners.filter(({ address }) => isUnspecified(address));
  const own: Selection[] =
    any.length === 0 ? [] : [{ ...every, destination: "own", ports: portsOf(any) }];
  if (!service.ingress.transparent) return [...named, ...own];
  if (!captures) {
    return any.length === 0
      ? named
      : [...named, { ...every, destination: "any", ports: portsOf(any) }];
  }
  const foreign = listeners.filter(isForeign).map(networkOf);
  const wanted = request.destinations ?? (any.length === 0 && foreign.length > 0 ? foreign : []);
  const captured: Selection = {
    destination: wanted.length === 0 ? "foreign" : wanted,
    sources: request.sources ?? [],
    ports: request.ports ?? ports,
    interfaces: request.interfaces ?? [],
    bypass,
  };
  return [captured, ...named, ...own];
}

/** The families that are taken: those of the request, of its networks, or of the listeners. */
export function familiesOf({ listen }: Service, request: IntentRequest): Family[] {
  const listeners = listen.map(({ endpoint }) => bindAddress(endpoint).address);
  const served = ([4, 6] as const).filter((family) =>
    listeners.some((each) =>
      family === 6 ? each.length === 16 : each.length === 4 || isUnspecified(each),
    ),
  );
  const networks = [...(request.destinations ?? []), ...(request.sources ?? [])];
  const named = served.filter((family) => networks.some((each) => each.family === family));
  return request.families?.slice() ?? (named.length > 0 ? named : served);
}

function portsOf(listeners: readonly SocketAddress[]): PortRange[] {
  const ports = [...new Set(listeners.map(({ port }) => port))] as Port[];
  return ports.map((port) => ({ from: port, to: port }));
}

function networkOf({ address }: SocketAddress) {
  const family = address.length === 4 ? 4 : 6;
  return { family, bytes: address, prefix: addressBits(family) } as const;
}

/** Everything of a service but its upstreams, which change while it runs. */
export function pathService(
  service: Service,
  request: IntentRequest,
  number: number,
  isOwn: (address: Uint8Array) => boolean,
): Omit<PathService, "pools"> {
  const protocols = (["tcp", "udp"] as const).filter((each) =>
    service.listen.some(({ protocol }) => protocol === each),
  );
  const selections = selectionsOf(service, request, isOwn);
  return {
    name: undefined,
    number,
    protocols,
    selections,
    local: request.local ?? false,
    guards: {
      mark: guardMarkOf(request),
      uids: request.guardUids ?? [],
      gids: request.guardGids ?? [],
      cgroups: request.guardCgroups ?? [],
    },
    source: sourceOf(service),
    choice: service.route.pool.balance === "source-hash" ? "source" : "turn",
    timeouts: timeoutsOf(service.timeouts, selections),
    offload: service.path.offload,
  };
}

/** What marks our own sockets, where what programs of this host send is captured. */
export function guardMarkOf({ local, guardMark }: IntentRequest): MaskedMark | undefined {
  if (local !== true) return undefined;
  return guardMark ?? { value: guardBit as Mark, mask: guardBit };
}

function sourceOf({ route: { source } }: Service): PathSource {
  if (source.kind !== "address") return { kind: source.kind };
  const family = source.address.length === 4 ? 4 : 6;
  return { kind: "addresses", addresses: [{ family, bytes: source.address }] };
}

/** The longest time-out of connection tracking, in seconds: what stands for never. */
const longest = 432_000;

function seconds(ms: number): number {
  return ms >= neverMs ? longest : Math.min(longest, Math.max(1, Math.ceil(ms / 1000)));
}

function timeoutsOf(timeouts: Timeouts, selections: readonly Selection[]) {
  const { answeredSessions, sessionIdleMs } = timeouts;
  const ports = new Set(
    selections.flatMap((each) => each.ports.map(({ from, to }) => `${from}-${to}`)),
  );
  const special = answeredSessions.find(
    ({ port }) => ports.size === 1 && ports.has(`${port}-${port}`),
  );
  return {
    tcpIdle: seconds(timeouts.idleMs),
    tcpConnect: seconds(timeouts.connectMs),
    tcpHalfClosed: seconds(timeouts.halfClosedMs),
    udpUnreplied: seconds(sessionIdleMs),
    udpReplied: seconds(special?.timeoutMs ?? sessionIdleMs),
  };
}

/** The standing of upstreams, as the pools of the process have it. */
export type StandingOf = Pools["standingOf"];

/**
 * The upstreams of this moment, as they stand; of equal addresses the first counts. One that the
 * pools do not know yet takes connections, with the weight that the pool gives its name.
 */
export function upstreamsOf(
  { name: pool, upstreams }: Pick<Pool, "name" | "upstreams">,
  addresses: Pick<UpstreamList, "addressesOf">,
  standingOf?: StandingOf,
): PathUpstream[] {
  const all = upstreams.flatMap(({ name, weight, isBackup }, i) =>
    addresses.addressesOf(i).map((each): PathUpstream => {
      const { state: standing, ...known } = standingOf?.(pool, name, each) ?? {
        ...{ slot: -1, state: 0, weight, isRising: false, downSince: Number.NEGATIVE_INFINITY },
      };
      return { address: addressOf(each), port: each.port as Port, isBackup, standing, ...known };
    }),
  );
  const first = new Map(all.toReversed().map((each) => [endpointKey(each), each]));
  return all.filter((each) => first.get(endpointKey(each)) === each);
}

/** An address of the kernel's form as the rules have it. */
export function addressOf({ address }: Pick<SocketAddress, "address">): Address {
  return { family: address.length === 4 ? 4 : 6, bytes: address };
}
