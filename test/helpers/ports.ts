/**
 * Ports of loopback at which nobody listens, for a server that starts later or never. The kernel
 * chooses none of them: one that was free a moment ago may by now belong to another socket that
 * asked for any port, to a client's, or to the one that is to be refused there.
 */

import { readFileSync } from "node:fs";
import { AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_STREAM } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import { bindTo } from "../../src/engine/sockets.ts";

const [first = 32_768, last = 60_999] = readFileSync(
  "/proc/sys/net/ipv4/ip_local_port_range",
  "utf8",
)
  .trim()
  .split(/\s+/)
  .map(Number);

/** The larger range beside those that the kernel chooses from, without those of known services. */
const range = first - 20_000 > 65_535 - last ? [20_000, first - 1] : [last + 1, 65_535];
const [lowest, highest] = range as [number, number];
/** Another process of tests begins elsewhere. */
let next = (process.pid * 61) % (highest - lowest + 1);

/** A port that is free for TCP and UDP in both families; never the same one twice in a process. */
export function freePort(): number {
  for (let tries = 0; tries <= highest - lowest; tries++) {
    const port = lowest + next;
    next = (next + 1) % (highest - lowest + 1);
    if (isFree(port)) return port;
  }
  throw new Error(`no port is free from ${lowest} to ${highest}`);
}

/** The same, several. */
export function freePorts(count: number): number[] {
  return Array.from({ length: count }, freePort);
}

function isFree(port: number): boolean {
  // A socket of IPv6 at any address has the port in IPv4, too.
  return [SOCK_STREAM, SOCK_DGRAM].every(
    (type) => canBind(AF_INET, type, port) && canBind(AF_INET6, type, port),
  );
}

function canBind(domain: number, type: number, port: number): boolean {
  const fd = sys.socket(domain, type | SOCK_CLOEXEC, 0);
  // A kernel without IPv6 has nobody there.
  if (fd < 0 && domain === AF_INET6) return true;
  check(fd, "socket");
  const result = bindTo(fd, new Uint8Array(domain === AF_INET ? 4 : 16), port, 0);
  sys.close(fd);
  return result >= 0;
}
