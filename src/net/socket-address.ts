import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { formatBytes } from "./address.ts";

/** Formats an upstream: of one without a port of its own (0) the address alone. */
export function formatUpstream(upstream: SocketAddress): string {
  const text = formatSocketAddress(upstream);
  return upstream.port === 0 ? text.replace(/:0$/, "").replace(/^\[(.*)\]$/, "$1") : text;
}

/** Formats a socket address of the kernel: `8.8.8.8:80`, `[fe80::1%2]:80` (interface 2). */
export function formatSocketAddress(socket: SocketAddress): string {
  const text = formatBytes(socket.address);
  if (socket.address.length === 4) return `${text}:${socket.port}`;
  const zone = socket.scopeId === 0 ? "" : `%${socket.scopeId}`;
  return `[${text}${zone}]:${socket.port}`;
}
