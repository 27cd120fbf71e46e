/** Checks the listener that `--listen` names. Pure. */

import type { InetSocket } from "../../../ffi/netlink/diag.ts";
import { boundTo, endpointText, findSocket, overlaps, waitingOn } from "../lookup.ts";
import type { Holder } from "../snapshot/port-holder.ts";
import { type Finding, failure, ok, unknown, warning } from "./finding.ts";

/** The listener that the user expects. */
export interface ExpectedListener {
  readonly protocol: "tcp" | "udp";
  /** Undefined: every address. */
  readonly address: Uint8Array | undefined;
  readonly port: number;
}

/** Whether there is such a socket, and whether it is transparent. */
export function checkListener(
  sockets: readonly InetSocket[],
  { protocol, address, port }: ExpectedListener,
): Finding {
  const waiting = waitingOn(sockets, protocol, port);
  const [first] = waiting;
  const found =
    address === undefined ? first : findSocket(sockets, { protocol, address, port, iif: 0 });
  const start = protocol === "udp" ? `tproxy listen --udp :${port}` : `tproxy listen :${port}`;
  if (first === undefined) {
    return failure("listener", `Nothing listens on ${protocol} port ${port}.`, start);
  }
  if (found === undefined) {
    const wanted = address === undefined ? `*:${port}` : endpointText(address, port);
    const text = `Nothing listens on ${wanted}; port ${port} is held at ${boundTo(first)}.`;
    return failure("listener", text, start);
  }
  if (found.transparent === undefined) {
    const text = `A socket on ${boundTo(found)}; whether it has IP_TRANSPARENT is not told here.`;
    return unknown("listener", text);
  }
  if (!found.transparent) {
    const text = `The listener on ${boundTo(found)} does not have IP_TRANSPARENT.`;
    return failure("listener", text, start);
  }
  return ok("listener", `A socket with IP_TRANSPARENT on ${boundTo(found)}.`);
}

/**
 * Whether several programs have the port at addresses that overlap (SO_REUSEPORT), as far as it is
 * known who has which socket, by inode.
 */
export function checkSharing(
  sockets: readonly InetSocket[],
  { protocol, port }: Pick<ExpectedListener, "protocol" | "port">,
  holders: ReadonlyMap<number, Holder>,
): Finding[] {
  const waiting = waitingOn(sockets, protocol, port);
  const isShared = (one: InetSocket) =>
    waiting.some((other) => {
      const [mine, theirs] = [holders.get(one.inode)?.pid, holders.get(other.inode)?.pid];
      return mine !== undefined && theirs !== undefined && mine !== theirs && overlaps(one, other);
    });
  const places = waiting.filter(isShared).map((socket) => {
    const { name, pid } = holders.get(socket.inode) as Holder;
    return `${name} (pid ${pid}) on ${boundTo(socket)}`;
  });
  if (places.length === 0) return [];
  const text = `Several programs share the port, and each takes a part: ${listed(places)}.`;
  return [warning("shared port", text, "end the program that is not meant to have the port")];
}

function listed(places: readonly string[]): string {
  const once = [...new Set(places)];
  return `${once.slice(0, -1).join(", ")} and ${once.at(-1)}`;
}
