/**
 * Where the TCP benchmark runs: three hosts – client, proxy, backend, in network namespaces joined
 * by veth – or one host and its loopback. Programs are started there, watched and ended.
 */

import { readdirSync, readFileSync } from "node:fs";
import { which } from "../../helpers/tools.ts";

/** A program that runs until `Hosts.end`, or until it is ended itself. */
export interface Program {
  readonly pid: number;
  end(): Promise<void>;
}

/** What a program that has come to its end said, and the CPU seconds it took. */
export interface Done {
  readonly stdout: string;
  readonly cpuSeconds: number;
}

/** Network namespaces by name; each is held by a process that sleeps. */
export class Hosts {
  private readonly pids = new Map<string, number>();
  private readonly programs: Program[] = [];

  /** Makes the namespaces `names`, with loopback up. */
  static async make(names: readonly string[]): Promise<Hosts> {
    const hosts = new Hosts();
    for (const name of names) {
      const holder = hosts.spawn(["unshare", "-n", "sleep", "infinity"]);
      await until(`namespace ${name}`, () => namespaceOf(holder.pid) !== namespaceOf(process.pid));
      hosts.pids.set(name, holder.pid);
      await hosts.run(name, ["sh", "-ec", loopbackUp]);
    }
    return hosts;
  }

  /** Starts `command` on host `name`, or here; what it prints is dropped. */
  start(name: string, command: readonly string[]): Program {
    return this.spawn(this.within(name, command));
  }

  /** Runs `command` on host `name` to its end. @throws Error with what it printed, if it failed */
  async run(name: string, command: readonly string[]): Promise<Done> {
    const child = Bun.spawn(this.within(name, command), {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr, status] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    if (status !== 0) throw new Error(`${command.join(" ")}: ${stderr}${stdout}`);
    const cpu = child.resourceUsage()?.cpuTime.total ?? 0n;
    return { stdout, cpuSeconds: Number(cpu) / 1e6 };
  }

  /** The command that runs `command` on host `name`. */
  within(name: string, command: readonly string[]): string[] {
    return ["nsenter", "-t", String(this.pids.get(name)), "-n", ...command];
  }

  /** Waits until something on host `name` listens on `port`. */
  async listening(name: string, port: number): Promise<void> {
    const hex = `:${port.toString(16).toUpperCase().padStart(4, "0")} `;
    const listens = (line: string) => line.includes(hex) && / 0A /.test(line);
    const tables = ["tcp", "tcp6"].map((table) => `/proc/${this.pids.get(name)}/net/${table}`);
    await until(`port ${port}`, () =>
      tables.some((table) => readFileSync(table, "utf8").split("\n").some(listens)),
    );
  }

  /** Ends everything that was started; the namespaces go with it. */
  async end(): Promise<void> {
    for (const program of this.programs.reverse()) await program.end();
  }

  private spawn(command: readonly string[]): Program {
    const child = Bun.spawn([...command], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    const program = {
      pid: child.pid,
      end: async () => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        // A master that is killed leaves its workers.
        for (const pid of processes(child.pid)) process.kill(pid, "SIGKILL");
        await child.exited;
      },
    };
    this.programs.push(program);
    return program;
  }
}

// The client's ports have to last for a run of short connections; proxies listen above them.
const loopbackUp = `
ip link set lo up
echo 1024 49999 > /proc/sys/net/ipv4/ip_local_port_range
echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
`;

/** Client 10.9.1.2 – proxy 10.9.1.1, 10.9.2.1 – backend 10.9.2.2: the proxy is a router. */
export async function threeHosts(): Promise<Hosts> {
  const hosts = await Hosts.make(["proxy", "client", "backend"]);
  const [, client, backend] = ["proxy", "client", "backend"].map((name) => pidOf(hosts, name));
  const script = `
    ip link add p0 type veth peer name c0 netns ${client}
    ip link add p1 type veth peer name b0 netns ${backend}
    ip address add 10.9.1.1/24 dev p0
    ip address add 10.9.2.1/24 dev p1
    ip link set p0 up
    ip link set p1 up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    nsenter -t ${client} -n ip address add 10.9.1.2/24 dev c0
    nsenter -t ${client} -n ip link set c0 up
    nsenter -t ${client} -n ip route add default via 10.9.1.1
    nsenter -t ${backend} -n ip address add 10.9.2.2/24 dev b0
    nsenter -t ${backend} -n ip link set b0 up
    nsenter -t ${backend} -n ip route add default via 10.9.2.1
    # The direct path has its own addresses: what the proxy has in TIME_WAIT would get its packets.
    nsenter -t ${client} -n ip address add 10.9.1.3/24 dev c0
    nsenter -t ${backend} -n ip address add 10.9.2.3/24 dev b0
    nsenter -t ${client} -n ip route add 10.9.2.3/32 via 10.9.1.1 src 10.9.1.3
    # go-mmproxy is reached by way of loopback.
    ip rule add from 127.0.0.1/8 iif lo table 123
    ip route add local 0.0.0.0/0 dev lo table 123
  `;
  await hosts.run("proxy", ["sh", "-ec", script]);
  return hosts;
}

/** One host, "proxy", of which only the loopback is used. */
export function oneHost(): Promise<Hosts> {
  return Hosts.make(["proxy"]);
}

function pidOf(hosts: Hosts, name: string): string {
  return hosts.within(name, [])[2] as string;
}

/** CPU seconds (user and system) that a process, its threads and its children have taken. */
export function cpuSeconds(pid: number): number {
  const ticks = processes(pid).map((each) => {
    // Behind the name, which may hold anything: utime and stime are the fields 14 and 15.
    const [, rest = ""] = readFileSync(`/proc/${each}/stat`, "utf8").split(/\) (?=\S )/);
    const fields = rest.split(" ");
    return Number(fields[11]) + Number(fields[12]);
  });
  return ticks.reduce((sum, each) => sum + each, 0) / 100;
}

/** Proportional set size of a process and its children, in bytes. */
export function residentBytes(pid: number): number {
  const sizes = processes(pid).map((each) => {
    const text = readFileSync(`/proc/${each}/smaps_rollup`, "utf8");
    return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1]) * 1024;
  });
  return sizes.reduce((sum, each) => sum + each, 0);
}

function processes(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  const children = threads.flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean),
  );
  return [pid, ...children.flatMap((child) => processes(Number(child)))];
}

function namespaceOf(pid: number): string {
  const { stdout } = Bun.spawnSync(["readlink", `/proc/${pid}/ns/net`]);
  return stdout.toString();
}

/** @throws Error when `condition` has not come true in ten seconds */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await Bun.sleep(5);
  }
}

/** Of `programs`, those that this machine lacks. */
export function missing(programs: readonly string[]): string[] {
  return programs.filter((program) => which(program) === undefined);
}
