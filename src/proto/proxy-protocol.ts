/**
 * The PROXY protocol (proxy-protocol.txt of HAProxy, versions 1 and 2): a proxy
 * names the client of a connection to the next proxy, in a header before all other bytes.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { more, type PassedOn, type ProxyDecoding, plainHeader } from "./proxy-header.ts";
import { decodeProxyV1, encodeProxyV1 } from "./proxy-protocol-v1.ts";
import { decodeProxyV2, encodeProxyV2 } from "./proxy-protocol-v2.ts";

const CR = 0x0d;

/**
 * Reads the header, of either version, that a connection starts with. `bytes` is everything
 * received so far; after `more`, call it again with that and what follows it. It returns an error
 * at the first byte that no header can have there. `more` stops at 107 bytes for version 1 and 4096
 * for version 2. The caller first checks that the sender may name clients, and limits the time.
 */
export function decodeProxyHeader(bytes: Uint8Array): ProxyDecoding {
  if (bytes.length === 0) return more;
  return bytes[0] === CR ? decodeProxyV2(bytes) : decodeProxyV1(bytes);
}

/** The header for what goes from `client` to `original`; `passed` is from the client's own. */
export function encodeProxyHeader(
  version: "v1" | "v2",
  protocol: "tcp" | "udp",
  client: SocketAddress,
  original: SocketAddress,
  passed: PassedOn = plainHeader,
): Uint8Array {
  if (version === "v2") return encodeProxyV2(client, original, protocol, passed);
  const isNamed = passed.names === "ends";
  return encodeProxyV1(isNamed ? client : undefined, isNamed ? original : undefined);
}
