/** The loads: requests by wrk, bytes by iperf3, connections that stay idle. Runs on the client. */

import { join } from "node:path";
import type { Hosts } from "./hosts.ts";

/** What one run of a load brought. */
export interface Work {
  /** Bytes, requests or connections. */
  readonly amount: number;
  readonly seconds: number;
  /** Latencies in milliseconds, where they are measured. */
  readonly p50?: number;
  readonly p99?: number;
  /** Connections that failed. */
  readonly errors?: number;
  /** CPU seconds of the load itself. */
  readonly cpuSeconds: number;
}

export interface Target {
  readonly hosts: Hosts;
  /** The host that the load runs on. */
  readonly from: string;
  readonly address: string;
  readonly port: number;
}

export function wrkCommand(target: Pick<Target, "address" | "port">, options: readonly string[]) {
  return ["wrk", "--latency", "-t1", ...options, `http://${target.address}:${target.port}/`];
}

/** Requests for `seconds`, each on a connection of its own or all on `connections`. */
export async function requests(
  target: Target,
  { seconds, connections, close }: { seconds: number; connections: number; close: boolean },
): Promise<Work> {
  const options = [`-c${connections}`, `-d${seconds}s`];
  if (close) options.push("-HConnection: close");
  const { stdout, cpuSeconds } = await target.hosts.run(target.from, wrkCommand(target, options));
  const [, amount, took] = /(\d+) requests in ([\d.]+)s/.exec(stdout) ?? [];
  if (stdout.includes("Non-2xx") || Number(amount) === 0) throw new Error(stdout);
  const [, ...errors] =
    /errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(stdout) ?? [];
  return {
    amount: Number(amount),
    seconds: Number(took),
    p50: latency(stdout, 50),
    p99: latency(stdout, 99),
    errors: errors.reduce((sum, count) => sum + Number(count), 0),
    cpuSeconds,
  };
}

function latency(stdout: string, percent: number): number {
  const [, value, unit] = new RegExp(`^ +${percent}% +([\\d.]+)(us|ms|s)$`, "m").exec(stdout) ?? [];
  return Number(value) * ({ us: 0.001, ms: 1, s: 1000 }[unit ?? ""] ?? Number.NaN);
}

export function iperfCommand(
  { address, port }: Pick<Target, "address" | "port">,
  seconds: number,
  connections: number,
) {
  return [
    ...["iperf3", "-c", address, "-p", String(port), "-J"],
    ...["-t", String(seconds), "-P", String(connections)],
  ];
}

/** Bytes from the client to the backend for `seconds`, over `connections`. */
export async function bulk(target: Target, seconds: number, connections: number): Promise<Work> {
  const command = iperfCommand(target, seconds, connections);
  const { stdout, cpuSeconds } = await target.hosts.run(target.from, command);
  const { sum_received: received } = (JSON.parse(stdout) as IperfReport).end;
  if (received === undefined) throw new Error(stdout);
  return { amount: received.bytes, seconds: received.seconds, cpuSeconds };
}

interface IperfReport {
  readonly end: { readonly sum_received: { readonly bytes: number; readonly seconds: number } };
}

/**
 * Opens `count` connections that each carry one request, then calls `then` while they are idle.
 * Another count may follow: `counts` are totals, each at least the one before.
 */
export async function idleConnections(
  { hosts, from, address, port }: Target,
  counts: readonly number[],
  then: (count: number) => Promise<void>,
): Promise<void> {
  const opener = join(import.meta.dir, "open-connections.ts");
  const command = [process.execPath, opener, address, String(port)];
  const child = Bun.spawn(hosts.within(from, command), {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines = child.stdout.getReader();
  try {
    for (const count of counts) {
      child.stdin.write(`${count}\n`);
      child.stdin.flush();
      const { done } = await lines.read();
      if (done) throw new Error(`${count} connections could not be opened`);
      await then(count);
    }
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}
