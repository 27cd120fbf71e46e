/** The listener that doctor is told of, looked at by itself. Pure. */

import type { InetSocket } from "../../ffi/netlink/diag.ts";
import { type Finding, failure, fine, unknown } from "./finding.ts";
import { boundTo, endpointText, findSocket, waitingOn } from "./lookup.ts";

/** Who is expected to listen. */
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
  const start = `tproxy listen ${protocol === "udp" ? "--udp " : ""}:${port}`;
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
  return fine("listener", `A socket with IP_TRANSPARENT on ${boundTo(found)}.`);
}
