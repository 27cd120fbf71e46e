/** The capture of a service: an Intent made of its listeners and its settings. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Mark, Port } from "../../../ffi/types.ts";
import { guardBit } from "../../capture/live/choose.ts";
import { type Intent, type IntentRequest, parseIntent } from "../../capture/plan/intent.ts";
import { defined, requestOf } from "../../config/request.ts";
import type { Service } from "../../config/service.ts";
import type { RoutesSettings } from "../../config/settings.ts";
import { type Address, type Family, formatBytes } from "../../net/address.ts";
import { addressBits } from "../../net/cidr.ts";
import { formatMark, type MaskedMark } from "../../net/mark.ts";
import type { PortRange } from "../../net/port.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { realNames } from "../interface-names.ts";
import { type ServiceIssue, ServiceProblem } from "./issues.ts";

/** The facts that rules need besides the settings. */
export interface CapturedService {
  readonly listeners: readonly SocketAddress[];
  readonly protocols: readonly ("tcp" | "udp")[];
  /** Upstreams that see the clients' addresses, for what is printed about them. */
  readonly backends: IntentRequest["backends"];
  /** Whether an address is one of this host. */
  readonly isOwn: (address: Uint8Array) => boolean;
  /** Bits that our own connections must not be marked by: other set-ups capture by them. */
  readonly takenBits?: number;
}

/**
 * The request that a service's settings amount to, without what its listeners add. Lists of
 * networks have been read; `say` gets a line for each alternative name of an interface.
 * @throws ServiceProblem
 */
export function captureRequest(
  { name, capture, ingress }: Pick<Service, "name" | "capture" | "ingress">,
  routes: RoutesSettings,
  say: (line: string) => void = () => {},
): IntentRequest {
  const parsed = requestOf(capture, routes);
  if (!parsed.ok) {
    throw problem(name, { path: ["capture"], code: "invalid-list", args: { text: parsed.error } });
  }
  const refuse = (given: string): never => {
    throw problem(name, {
      ...{ path: ["capture", "in"], code: "no-such-interface", args: { name: given } },
    });
  };
  const { interfaces } = parsed.value;
  return defined({
    ...parsed.value,
    interfaces: interfaces && realNames(interfaces, say, refuse),
    redirect: ingress.redirected || undefined,
  });
}

/**
 * What is captured for these listeners: any destination at their port unless the settings name
 * others, the replies to spoofed connections, never our own connections to upstreams. Undefined if
 * nothing is: packets to an address of this host arrive without rules, and so do replies to it.
 * @throws ServiceProblem
 */
export function intentOf(
  service: Service,
  request: IntentRequest,
  captured: CapturedService,
): Intent | undefined {
  const { name, ingress } = service;
  if (!ingress.transparent && !ingress.redirected) {
    throw problem(name, { path: ["transparent"], code: "capture-not-transparent", args: {} });
  }
  const guardMark = guardOf(name, request, captured.takenBits);
  // One that takes both protocols is two sockets, and one place to send packets to.
  const listeners = [
    ...new Map(captured.listeners.map((each) => [formatSocketAddress(each), each])).values(),
  ];
  const families = wantedFamilies(name, request, listeners);
  const where = target(name, request, captured, listeners, families);
  if (where.ports === undefined && isNeedless(service)) return undefined;
  const complete = defined({
    ...request,
    protocols: [...captured.protocols],
    families,
    ...where,
    ...replies(service, captured, families),
    guardMark,
  });
  const parsed = parseIntent(complete);
  if (parsed.ok) return parsed.value;
  const { issue } = parsed;
  const path = issue.path[0] === "backends" ? ["to"] : ["capture", ...issue.path];
  throw problem(name, { path, code: "plan", args: { issue } });
}

/** SO_MARK of a service's connections to upstreams, which no capture may take. @throws */
export function socketMark({ name, dial }: Service, intents: readonly Intent[]): Mark | undefined {
  let socketMark: number | undefined = dial.mark;
  for (const { mark, redirect } of intents) {
    if (dial.mark === undefined || redirect) continue;
    if ((dial.mark & mark.mask) >>> 0 !== mark.value) continue;
    const args = { socketMark: `0x${dial.mark.toString(16)}`, mark: formatMark(mark) };
    throw problem(name, { path: ["socket-mark"], code: "socket-mark-captures", args });
  }
  for (const { guards } of intents) {
    if (guards.mark === undefined) continue;
    const { value, mask } = guards.mark;
    socketMark = (((socketMark ?? 0) & ~mask) | value) >>> 0;
  }
  return socketMark as Mark | undefined;
}

function problem(service: string, issue: ServiceIssue): ServiceProblem {
  return new ServiceProblem(service, issue);
}

/** The fields that choose what is captured. */
const selecting: readonly (keyof IntentRequest)[] = [
  ...(["destinations", "sources", "ports", "interfaces"] as const),
  ...(["bypass", "bypassPrivate", "local"] as const),
];

type Target = Pick<IntentRequest, "destinations" | "ports" | "toPort" | "toAddresses">;

/**
 * What is sent where, if the options do not say what is captured. A listener takes what is sent to
 * it: to every address at its port, or to its own address alone. If that is one of this host,
 * packets get there by themselves, and nothing is captured.
 */
function target(
  name: string,
  request: IntentRequest,
  captured: CapturedService,
  listeners: readonly SocketAddress[],
  families: readonly Family[],
): Target {
  if (selecting.some((field) => request[field] !== undefined)) {
    return handover(name, request, captured, listeners, families);
  }
  const foreign = listeners.filter((each) => isAny(each) || !captured.isOwn(each.address));
  if (foreign.length === 0) return {};
  const unserved = families.find((family) => !servedBy(foreign).includes(family));
  if (unserved !== undefined) {
    const args = { family: unserved };
    throw problem(name, { path: ["capture"], code: "family-of-host", args });
  }
  const addresses = foreign.filter((each) => !isAny(each)).map(addressOf);
  const isOnePort = new Set(foreign.map(({ port }) => port)).size === 1;
  if (addresses.length < foreign.length || !isOnePort) {
    return handover(name, request, captured, foreign, families);
  }
  const destinations = addresses.map((each) => ({ ...each, prefix: addressBits(each.family) }));
  const isOneEach = families.every(
    (family) => addresses.filter((each) => each.family === family).length === 1,
  );
  if (captured.protocols.includes("udp") && isOneEach) {
    return { destinations, ...handover(name, request, captured, foreign, families) };
  }
  const port = foreign[0]?.port as Port;
  return { destinations, ports: [{ from: port, to: port }] };
}

/**
 * The port and address of the listener, where the rules have to name them. For UDP they do if there
 * is one port: by port numbers alone a rule knows only the first of a datagram's fragments,
 * and TPROXY has them put together before.
 */
function handover(
  name: string,
  request: IntentRequest,
  { protocols }: CapturedService,
  listeners: readonly SocketAddress[],
  families: readonly Family[],
): Target {
  const own = [...new Set(listeners.map(({ port }) => port))] as Port[];
  const [toPort] = own;
  const specific = listeners.filter((each) => !isAny(each));
  const ports = request.ports ?? own.map((port) => ({ from: port, to: port }));
  const isSame = ports.every((range) => isCovered(range, own));
  const isMarked = isSame && specific.length === 0;
  const isUdp = protocols.includes("udp");
  if (request.redirect !== true && isMarked && !(isUdp && own.length === 1)) return { ports };
  if (own.length > 1) {
    throw problem(name, { path: ["listen"], code: "several-ports", args: { ports: own } });
  }
  if (request.redirect === true || specific.length === 0) return { ports, toPort };
  const toAddresses = families.flatMap((family) => {
    const [one, second] = listeners.map(addressOf).filter((each) => each.family === family);
    if (one !== undefined && second === undefined) return [one];
    throw problem(name, { path: ["listen"], code: "several-addresses", args: { family } });
  });
  return { ports, toPort, toAddresses };
}

/** Whether each port of a range is one of `ports`. */
function isCovered({ from, to }: PortRange, ports: readonly number[]): boolean {
  const inside = new Set(ports.filter((port) => port >= from && port <= to));
  return inside.size === to - from + 1;
}

function isAny({ address }: SocketAddress): boolean {
  return address.every((byte) => byte === 0);
}

function addressOf({ address }: SocketAddress): Address {
  return { family: address.length === 4 ? 4 : 6, bytes: address };
}

/** Those that are asked for, or of the networks that are; otherwise all that the listeners take. */
function wantedFamilies(
  name: string,
  request: IntentRequest,
  listeners: readonly SocketAddress[],
): Family[] {
  const served = servedBy(listeners);
  const networks = [...(request.destinations ?? []), ...(request.sources ?? [])];
  const named = ([4, 6] as const).filter((family) => networks.some((n) => n.family === family));
  const wanted = request.families ?? (named.length > 0 ? named : served);
  const stray = wanted.find((family) => !served.includes(family));
  if (stray === undefined) return [...wanted];
  const args = { family: stray, served };
  throw problem(name, { path: ["capture", "family"], code: "family-not-accepted", args });
}

/** The families that these listeners take. */
function servedBy(listeners: readonly SocketAddress[]): Family[] {
  const has4 = listeners.some((each) => each.address.length === 4 || isAny(each));
  const has6 = listeners.some((each) => each.address.length === 16);
  return [...(has4 ? ([4] as const) : []), ...(has6 ? ([6] as const) : [])];
}

/**
 * The way back for connections that carry an address which is not ours, and for ICMP errors about
 * what we send from one: also towards clients, for every `--source`.
 */
function replies(
  { name, ingress, route: { source } }: Service,
  { backends = [] }: CapturedService,
  families: readonly Family[],
): Pick<IntentRequest, "replyPath" | "backends"> {
  if (ingress.redirected && source.kind === "self") return {};
  // Of another family than the client, an upstream sees an address of ours.
  const spoofed = backends.filter(({ address }) => families.includes(address.family));
  const isSpoofed = source.kind !== "self" && spoofed.length > 0;
  if (!ingress.redirected) return { replyPath: true, ...(isSpoofed ? { backends: spoofed } : {}) };
  const address = source.kind === "address" ? formatBytes(source.address) : "client";
  throw problem(name, { path: ["source"], code: "redirected-source", args: { source: address } });
}

/** Whether rules would do nothing: no capture, and no reply that goes elsewhere. */
function isNeedless({ ingress, route: { source } }: Service): boolean {
  return ingress.redirected || source.kind === "self";
}

/** The mark that exempts our own connections, where those of programs here are captured. */
function guardOf(name: string, request: IntentRequest, takenBits = 0): MaskedMark | undefined {
  const { guardMark, guardUids, guardGids, guardCgroups } = request;
  if (!request.local || guardMark || guardUids || guardGids || guardCgroups) return guardMark;
  const used = ((request.mark?.mask ?? 1) | takenBits) >>> 0;
  // All proxies of this program tell their own by one bit where they can: none captures another's.
  const free = (used & guardBit) === 0 ? guardBit : (~used & -~used) >>> 0;
  if (free !== 0) return { value: free as Mark, mask: free };
  const args = { mark: formatMark(request.mark as MaskedMark) };
  throw problem(name, { path: ["capture", "local"], code: "no-guard-bit", args });
}
