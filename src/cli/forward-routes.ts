/** What `forward --routes` captures: an Intent out of its listeners and the options of `routes`. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark, Port } from "../../ffi/types.ts";
import { guardBit } from "../capture/live/choose.ts";
import { type Intent, type IntentRequest, parseIntent } from "../capture/plan/intent.ts";
import { defined } from "../config/request.ts";
import type { Service } from "../config/service.ts";
import type { RoutesSettings } from "../config/settings.ts";
import { UsageError } from "../errors.ts";
import { type Address, type Family, formatBytes } from "../net/address.ts";
import { addressBits } from "../net/cidr.ts";
import { formatMark, type MaskedMark } from "../net/mark.ts";
import { quote } from "../net/result.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { captureRequestOf } from "./options/capture.ts";
import { planLine } from "./words/plan.ts";

/** What is captured, and the mark by which our own connections are left alone. */
export interface ForwardCapture {
  readonly intent: Intent;
  /** SO_MARK of the connections to upstreams; undefined: none is needed. */
  readonly mark: Mark | undefined;
}

/** What the rules have to know beside the options. */
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
 * What a service says of its capture, without what `forward` answers itself. The files of lists
 * have been read; `say` is told of alternative names of interfaces.
 * @throws UsageError
 */
export function captureRequest(
  { capture, ingress }: Pick<Service, "capture" | "ingress">,
  routes: RoutesSettings,
  say?: (line: string) => void,
): IntentRequest {
  const request = captureRequestOf(capture, routes, say);
  return ingress.redirected ? { ...request, redirect: true } : request;
}

/**
 * What is captured for these listeners: any destination at their port unless the options say
 * otherwise, the replies to spoofed connections, never our own connections to upstreams.
 * @throws UsageError
 */
export function captureOf(
  service: Service,
  request: IntentRequest,
  captured: CapturedService,
): ForwardCapture {
  if (!service.ingress.transparent && !service.ingress.redirected) {
    throw new UsageError(
      "--routes and --no-transparent exclude each other: without IP_TRANSPARENT, packets for " +
        "other hosts are not accepted; leave one of them out",
    );
  }
  const guardMark = guardOf(request, captured.takenBits);
  // One that takes both protocols is two sockets, and one place to send packets to.
  const listeners = [
    ...new Map(captured.listeners.map((each) => [formatSocketAddress(each), each])).values(),
  ];
  const families = wantedFamilies(request, listeners);
  const where = target(request, captured, listeners, families);
  if (where.ports === undefined) refuseNeedless(service);
  const complete = defined({
    ...request,
    protocols: [...captured.protocols],
    families,
    ...where,
    ...replies(service, captured, families),
    guardMark,
  });
  const parsed = parseIntent(complete);
  if (!parsed.ok) throw new UsageError(planLine(parsed.issue));
  const intent = parsed.value;
  return { intent, mark: markOf(service, intent) };
}

/** The options that say what is captured. */
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
  request: IntentRequest,
  captured: CapturedService,
  listeners: readonly SocketAddress[],
  families: readonly Family[],
): Target {
  if (selecting.some((name) => request[name] !== undefined)) {
    return handover(request, captured, listeners, families);
  }
  const foreign = listeners.filter((each) => isAny(each) || !captured.isOwn(each.address));
  if (foreign.length === 0) return {};
  const unserved = families.find((family) => !servedBy(foreign).includes(family));
  if (unserved !== undefined) {
    throw new UsageError(
      `--routes cannot capture for IPv${unserved}, where listeners have addresses of this ` +
        "host: say what is captured with --dst, --dport or --in, or give --family",
    );
  }
  const addresses = foreign.filter((each) => !isAny(each)).map(addressOf);
  const isOnePort = new Set(foreign.map(({ port }) => port)).size === 1;
  if (addresses.length < foreign.length || !isOnePort) {
    return handover(request, captured, foreign, families);
  }
  const destinations = addresses.map((each) => ({ ...each, prefix: addressBits(each.family) }));
  const isOneEach = families.every(
    (family) => addresses.filter((each) => each.family === family).length === 1,
  );
  if (captured.protocols.includes("udp") && isOneEach) {
    return { destinations, ...handover(request, captured, foreign, families) };
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
  request: IntentRequest,
  { protocols }: CapturedService,
  listeners: readonly SocketAddress[],
  families: readonly Family[],
): Target {
  const own = [...new Set(listeners.map(({ port }) => port))] as Port[];
  const [toPort] = own;
  const specific = listeners.filter((each) => !isAny(each));
  const ports = request.ports ?? own.map((port) => ({ from: port, to: port }));
  const isSame = ports.every(({ from, to }) => from === to && own.includes(from));
  const isMarked = isSame && specific.length === 0;
  const isUdp = protocols.includes("udp");
  if (request.redirect !== true && isMarked && !(isUdp && own.length === 1)) return { ports };
  if (own.length > 1) {
    const list = own.map((port) => `port ${port}`).join(" or ");
    throw new UsageError(
      `--routes cannot tell which listener is meant, ${list}: give addresses with one port`,
    );
  }
  if (request.redirect === true || specific.length === 0) return { ports, toPort };
  const toAddresses = families.flatMap((family) => {
    const [one, second] = listeners.map(addressOf).filter((each) => each.family === family);
    if (one !== undefined && second === undefined) return [one];
    throw new UsageError(
      `--routes cannot tell which listener is meant for IPv${family}: give one address for it, ` +
        "or none for any",
    );
  });
  return { ports, toPort, toAddresses };
}

function isAny({ address }: SocketAddress): boolean {
  return address.every((byte) => byte === 0);
}

function addressOf({ address }: SocketAddress): Address {
  return { family: address.length === 4 ? 4 : 6, bytes: address };
}

/** Those that are asked for, or of the networks that are; otherwise all that the listeners take. */
function wantedFamilies(request: IntentRequest, listeners: readonly SocketAddress[]): Family[] {
  const served = servedBy(listeners);
  const networks = [...(request.destinations ?? []), ...(request.sources ?? [])];
  const named = ([4, 6] as const).filter((family) => networks.some((n) => n.family === family));
  const wanted = request.families ?? (named.length > 0 ? named : served);
  const stray = wanted.find((family) => !served.includes(family));
  if (stray === undefined) return [...wanted];
  throw new UsageError(
    `The rules capture IPv${stray}, and no listener accepts it: give ` +
      `${stray === 6 ? '"[::]:PORT"' : '":PORT"'}, or --family ${served.join()}`,
  );
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
  { ingress, route: { source } }: Service,
  { backends = [] }: CapturedService,
  families: readonly Family[],
): Pick<IntentRequest, "replyPath" | "backends"> {
  if (ingress.redirected && source.kind === "self") return {};
  // Of another family than the client, an upstream sees an address of ours.
  const spoofed = backends.filter(({ address }) => families.includes(address.family));
  const isSpoofed = source.kind !== "self" && spoofed.length > 0;
  if (!ingress.redirected) return { replyPath: true, ...(isSpoofed ? { backends: spoofed } : {}) };
  const address = source.kind === "address" ? formatBytes(source.address) : "client";
  throw new UsageError(
    `--source ${quote(address)} excludes --redirect, which brings no replies back: give --source ` +
      "self, or leave --redirect out",
  );
}

/** @throws UsageError where rules would do nothing: no capture, and no reply that goes elsewhere */
function refuseNeedless({ ingress, route: { source } }: Service): void {
  if (!ingress.redirected && source.kind !== "self") return;
  throw new UsageError(
    "--routes has no rules to install: packets to an address of this host arrive without them" +
      `${source.kind === "self" ? ", and so do replies of upstreams" : ""}; give --dst, --dport ` +
      "or --in to capture more, or leave --routes out",
  );
}

/** By which our own connections are told from those of other programs, where these are captured. */
function guardOf(request: IntentRequest, takenBits = 0): MaskedMark | undefined {
  const { guardMark, guardUids, guardGids, guardCgroups } = request;
  if (!request.local || guardMark || guardUids || guardGids || guardCgroups) return guardMark;
  const used = ((request.mark?.mask ?? 1) | takenBits) >>> 0;
  // All proxies of this program tell their own by one bit where they can: none captures another's.
  const free = (used & guardBit) === 0 ? guardBit : (~used & -~used) >>> 0;
  if (free !== 0) return { value: free as Mark, mask: free };
  throw new UsageError(
    "--local needs a free bit of the mark for our own connections, and --mark " +
      `${quote(formatMark(request.mark as MaskedMark))} leaves none: give it a mask, "0x1/0x1"`,
  );
}

function markOf({ dial }: Service, { mark, guards }: Intent): Mark | undefined {
  const socketMark = dial.mark;
  if (socketMark !== undefined && (socketMark & mark.mask) >>> 0 === mark.value) {
    throw new UsageError(
      `--socket-mark "0x${socketMark.toString(16)}" contains the mark ${formatMark(mark)}, ` +
        "which routes packets to the listener: give another",
    );
  }
  if (guards.mark === undefined) return socketMark;
  const { value, mask } = guards.mark;
  return ((((socketMark ?? 0) & ~mask) | value) >>> 0) as Mark;
}
