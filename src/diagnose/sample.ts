/**
 * A packet to try an intent with: what is captured is a set, and a check needs one member of it.
 * Pure. What the intent leaves open is taken from the machine.
 */

import { RT_SCOPE_LINK, RT_TABLE_MAIN, RTN_UNICAST } from "../../ffi/netlink/constants.ts";
import type { Intent } from "../capture/plan/intent.ts";
import type { Address, Family } from "../net/address.ts";
import { addressBits, type Cidr } from "../net/cidr.ts";
import { patternMatches } from "../net/interface.ts";
import type { HostSnapshot } from "./snapshot/host.ts";
import type { Capture, PathQuestion } from "./snapshot/path-facts.ts";

/** The parts of an intent that a packet is made from. */
export type CapturedTraffic = Pick<
  Intent,
  | "destinations"
  | "families"
  | "interfaces"
  | "mark"
  | "ports"
  | "priority"
  | "protocols"
  | "sources"
  | "table"
  | "toPort"
>;

/** A question about a packet that is meant to be captured. */
export type CapturedPacket = PathQuestion & { readonly capture: Capture };

/** Addresses of the documentation networks (RFC 5737, 3849), which no host has. */
const foreign: Readonly<Record<Family, Address>> = {
  4: { family: 4, bytes: Uint8Array.of(203, 0, 113, 80) },
  6: { family: 6, bytes: Uint8Array.of(0x20, 1, 0x0d, 0xb8, ...new Array(11).fill(0), 0x50) },
};
const stranger: Readonly<Record<Family, Address>> = {
  4: { family: 4, bytes: Uint8Array.of(198, 51, 100, 7) },
  6: { family: 6, bytes: Uint8Array.of(0x20, 1, 0x0d, 0xb8, 0, 7, ...new Array(9).fill(0), 7) },
};

/**
 * One packet for each protocol and family of the intent. `listenPort` is the listener's, which is
 * the destination's too when packets are only marked.
 */
export function samplePackets(
  captured: CapturedTraffic,
  machine: HostSnapshot,
  listenPort: number | undefined,
): readonly CapturedPacket[] {
  const { mark, table, priority, toPort } = captured;
  const [range] = captured.ports;
  const port = range?.from ?? (toPort === undefined ? (listenPort ?? 80) : 80);
  return captured.families.flatMap((family) =>
    captured.protocols.map((protocol) => {
      const packet = { protocol, port, ...sampleEnds(captured, machine, family) };
      return { packet, capture: { mark, table, priority, toPort } };
    }),
  );
}

/** A client, where it goes and how it comes, for one packet of what is captured. */
export function sampleEnds(
  captured: Pick<CapturedTraffic, "destinations" | "interfaces" | "sources">,
  machine: HostSnapshot,
  family: Family,
): { readonly source: Address; readonly destination: Address; readonly iif: string } {
  const destination = hostOf(captured.destinations, family) ?? foreign[family];
  const iif = interfaceOf(captured, machine) ?? likelyInterface(machine, family);
  const source = clientOf(captured.sources, machine, family) ?? neighbour(machine, iif, family);
  return { source, destination, iif };
}

/** The first host of the sources that is not this one, which is often the first of a network. */
function clientOf(
  sources: readonly Cidr[],
  machine: HostSnapshot,
  family: Family,
): Address | undefined {
  const first = hostOf(sources, family);
  const isOwn = machine.addresses.some(({ address }) => {
    return first !== undefined && Buffer.compare(address, first.bytes) === 0;
  });
  const hasMore = sources.some((each) => {
    return each.family === family && each.prefix <= addressBits(family) - 2;
  });
  if (first === undefined || !isOwn || !hasMore) return first;
  const last = first.bytes.at(-1) as number;
  return { family, bytes: first.bytes.with(first.bytes.length - 1, last ^ 3) };
}

/** The first that was named; of `eth*` one that is there. */
function interfaceOf(
  { interfaces: [first] }: Pick<CapturedTraffic, "interfaces">,
  { links }: HostSnapshot,
): string | undefined {
  if (first === undefined) return undefined;
  return links.find(({ name }) => patternMatches(first, name))?.name ?? first;
}

/** The first host of the first network of a family. */
function hostOf(networks: readonly Cidr[], family: Family): Address | undefined {
  const network = networks.find((each) => each.family === family);
  if (network === undefined) return undefined;
  const bytes = network.bytes.slice();
  const isHost = network.prefix === addressBits(family);
  if (!isHost) bytes[bytes.length - 1] = (bytes.at(-1) as number) | 1;
  return { family, bytes };
}

/** Where packets probably come in: by the default route's interface, or any that is up. */
export function likelyInterface(machine: HostSnapshot, family: Family): string {
  const { routes } = machine.policy[family];
  const byDefault = routes.find(
    ({ type, table, destination }) =>
      type === RTN_UNICAST && table === RT_TABLE_MAIN && (destination?.length ?? 0) === 0,
  );
  const byIndex = machine.links.find(({ index }) => index === byDefault?.oif);
  const anyUp = machine.links.find(({ up, loopback }) => up && !loopback);
  return byIndex?.name ?? anyUp?.name ?? "lo";
}

/** An address that a client by this interface may have: of its own network if it has one. */
export function neighbour(machine: HostSnapshot, iif: string, family: Family): Address {
  const index = machine.links.find(({ name }) => name === iif)?.index;
  const width = family === 4 ? 4 : 16;
  const own = machine.addresses.find((each) => {
    return each.index === index && each.address.length === width && each.scope !== RT_SCOPE_LINK;
  });
  if (iif === "lo" && own !== undefined) return { family, bytes: own.address };
  if (own === undefined || own.prefixLength > 8 * width - 2) return stranger[family];
  if (own.peer !== undefined) return { family, bytes: own.peer };
  const last = own.address.at(-1) as number;
  // Neither the network's address nor its broadcast, whose last bits are all 0 or all 1.
  const next = (last & 3) === 1 ? last + 1 : (last & 3) === 2 ? last - 1 : (last & ~3) + 1;
  return { family, bytes: own.address.with(own.address.length - 1, next) };
}
