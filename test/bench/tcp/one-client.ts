/**
 * A part of `bench tcp`: one client address opens and closes connections for a minute without a
 * pause. Its ports towards the upstream stay in TIME_WAIT on the proxy's host, which has the ports
 * and the settings of a kernel by default.
 */

import { type Hosts, threeHosts } from "./hosts.ts";
import { clientCommand, startChain } from "./neighbour.ts";
import type { Contender } from "./proxies.ts";

const client = "10.9.1.2";
const processes = 3;
const seconds = 60;
const lastSeconds = 10;

/** New connections per second at the end of the minute. */
export async function rateOfOneClient(proxy: Contender, folder: string): Promise<number> {
  // Hosts of its own: nobody else leaves ports in TIME_WAIT.
  const hosts = await threeHosts();
  try {
    await startChain(hosts, proxy, folder);
    // The client's own ports would be in TIME_WAIT as well.
    await hosts.run("client", ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets"]);
    const all = Array.from({ length: processes }, () => countsOf(hosts));
    const last = (await Promise.all(all)).flatMap((counts) => counts.slice(-lastSeconds));
    return last.reduce((sum, count) => sum + count, 0) / lastSeconds;
  } finally {
    await hosts.end();
  }
}

/** The connections of one process in each second. */
async function countsOf(hosts: Hosts): Promise<number[]> {
  const { stdout } = await hosts.run("client", clientCommand("count", client, seconds));
  return stdout.trim().split(" ").map(Number);
}
