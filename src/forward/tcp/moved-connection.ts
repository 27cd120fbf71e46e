/**
 * A connection on its way to another process (an upgrade): plain data, and its descriptors beside
 * it. Those are the client's socket, the upstream's, and the two ends of each pipe that holds bytes
 * of a direction. Whatever waits in a socket or a pipe moves with it, so a connection can move at
 * any moment of its relay. Pure but for the calls that it is handed.
 */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Frozen, Packed } from "../../workers/moved.ts";
import type { TcpConnection } from "./connection.ts";
import type { Direction } from "./direction.ts";
import { Relay, type RelayKernel } from "./relay.ts";

/** Port, scope, and the 4 or 16 bytes of the address. */
type PackedAddress = readonly number[];

/** One direction of a relay. */
interface PackedDirection {
  readonly bytes: number;
  readonly ended: boolean;
  readonly closed: boolean;
  readonly begun: boolean;
  /** Bytes in its pipe. */
  readonly held: number;
}

export interface PackedConnection extends Packed {
  readonly protocol: "tcp";
  readonly client: PackedAddress;
  readonly original: PackedAddress;
  readonly upstream: PackedAddress;
  readonly source: string;
  /** A pool has picked the upstream. */
  readonly isPicked: boolean;
  /** In ms since 1970. */
  readonly startedAt: number;
  readonly lastActive: number;
  readonly connectMs: number;
  readonly retries: number;
  /** How often it has passed this host; the upstream has not answered it yet. */
  readonly visits: number;
  readonly isUnanswered: boolean;
  readonly outward: PackedDirection;
  readonly inward: PackedDirection;
  readonly firstEnd: "client" | "upstream" | undefined;
}

/**
 * Packs a connection that relays; undefined if it has bytes in user space. `zero` is the moment, in
 * ms since 1970, at which the clock of the loop was 0.
 */
export function packConnection(
  connection: TcpConnection,
  service: string,
  kernel: RelayKernel,
  zero: number,
): Frozen | undefined {
  const { relay, upstream, flowHandle, picked } = connection;
  const packedRelay = relay && packRelay(relay, kernel);
  if (packedRelay === undefined || upstream === undefined) return undefined;
  const descriptors = connection.descriptors();
  const packed: PackedConnection = {
    ...{ protocol: "tcp", service, id: connection.knownAs ?? connection.id },
    descriptors: descriptors.length,
    client: packAddress(connection.client),
    original: packAddress(connection.original),
    upstream: packAddress(upstream),
    source: connection.source,
    isPicked: picked !== undefined,
    startedAt: zero + connection.startedAt,
    lastActive: zero + connection.lastActive,
    connectMs: connection.connectMs,
    retries: connection.retries,
    visits: connection.trail.visits,
    isUnanswered: flowHandle !== 0,
    ...packedRelay,
  };
  return { packed, descriptors };
}

function packAddress({ address, port, scopeId }: SocketAddress): PackedAddress {
  return [port, scopeId, ...address];
}

/** Reads what `packAddress` has made. */
export function unpackAddress([port = 0, scopeId = 0, ...bytes]: PackedAddress): SocketAddress {
  return { address: Uint8Array.from(bytes), port, scopeId };
}

type PackedRelay = Pick<PackedConnection, "outward" | "inward" | "firstEnd">;

/**
 * Packs a relay that rests, after it has sent what the kernel holds back; undefined if it has bytes
 * in user space.
 */
function packRelay(relay: Relay, kernel: RelayKernel): PackedRelay | undefined {
  const [outward, inward] = relay.flows() as [Direction, Direction];
  for (const direction of [outward, inward]) {
    const { pipe, corked, to } = direction;
    if (pipe !== undefined && !kernel.holdsAll(pipe)) return undefined;
    if (!corked) continue;
    direction.corked = false;
    kernel.push(to.fd);
  }
  const { firstEnd } = relay;
  return { outward: packDirection(outward), inward: packDirection(inward), firstEnd };
}

function packDirection({ bytes, ended, closed, begun, held }: Direction): PackedDirection {
  return { bytes, ended, closed, begun, held };
}

/** A relay that goes on where another process has left one. It owns the pipes. */
export function unpackRelay(
  kernel: RelayKernel,
  [clientFd, upstreamFd, ...pipes]: readonly number[],
  mayWiden: boolean,
  { outward, inward, firstEnd }: PackedRelay,
): Relay {
  const relay = new Relay(kernel, clientFd as number, upstreamFd as number, mayWiden);
  relay.firstEnd = firstEnd;
  const ends = pipes.values();
  for (const [index, packed] of [outward, inward].entries()) {
    const { held, ...state } = packed;
    const direction = relay.flows()[index] as Direction;
    Object.assign(direction, state);
    if (held === 0) continue;
    direction.held = held;
    direction.splicing = true;
    direction.pipe = kernel.adoptPipe(ends.next().value as number, ends.next().value as number);
  }
  return relay;
}
