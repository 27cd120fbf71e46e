/** The proxies that are compared: how each is started, and what it says its version is. */

import { join } from "node:path";
import { which } from "../../helpers/tools.ts";
import { tproxy } from "../../helpers/tproxy.ts";

/** What a proxy has to do. */
export interface Job {
  readonly folder: string;
  /** Transparent: TPROXY towards the client, the client's address towards the backend. */
  readonly spoofs: boolean;
  /** Where it listens. */
  readonly port: number;
  readonly backend: { readonly address: string; readonly port: number };
  readonly workers: number;
  /** Connections at once. */
  readonly connections: number;
}

export interface Contender {
  readonly name: string;
  /** The program that has to be there, if it is not ours. */
  readonly program?: string;
  readonly version: readonly string[];
  /** Writes what it needs into the folder and answers its command. */
  command(job: Job): Promise<readonly string[]>;
  /** A second program, in front, where the proxy serves only PROXY protocol senders. */
  front?(job: Job): Promise<readonly string[]>;
  /** Only where it can spoof: it knows no other way. */
  readonly onlySpoofing?: boolean;
  readonly workersMax: number;
  /** Connections that it can keep open with 20,000 descriptors, at most 5,000. */
  readonly idleMax: number;
}

const us: Contender = {
  name: "tproxy",
  version: [...tproxy, "--version"],
  workersMax: 2,
  idleMax: 5_000,
  command: async ({ port, spoofs, backend, workers }) => [
    ...[...tproxy, "forward", `${spoofs ? "" : "127.0.0.1"}:${port}`],
    ...["--to", `${backend.address}:${backend.port}`, "--quiet", "--workers", String(workers)],
    ...(spoofs ? [] : ["--source", "self", "--no-transparent"]),
  ],
};

const haproxy: Contender = {
  name: "HAProxy",
  program: "haproxy",
  version: ["haproxy", "-v"],
  workersMax: 2,
  idleMax: 5_000,
  command: async (job) => {
    const file = join(job.folder, `haproxy-${job.port}.cfg`);
    await Bun.write(file, haproxyConfiguration(job, job.spoofs ? " transparent" : "", ""));
    return ["haproxy", "-db", "-q", "-f", file];
  },
};

function haproxyConfiguration(
  { port, spoofs, backend, workers, connections }: Job,
  bindOptions: string,
  serverOptions: string,
): string {
  return `global
  nbthread ${workers}
  maxconn ${connections}
  tune.pipesize 262144
defaults
  mode tcp
  timeout connect 10s
  timeout client 10m
  timeout server 10m
  option splice-request
  option splice-response
listen benchmark
  bind ${spoofs ? "0.0.0.0" : "127.0.0.1"}:${port}${bindOptions}
  ${spoofs && serverOptions === "" ? "source 0.0.0.0 usesrc clientip" : ""}
  server backend ${backend.address}:${backend.port}${serverOptions}
`;
}

// nginx makes no transparent listener, but takes over one that it inherits, as in an upgrade.
const transparentListener = `
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_IP, 19, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(4096)
listener.setblocking(False)
os.set_inheritable(listener.fileno(), True)
os.environ["NGINX"] = f"{listener.fileno()};"
os.execvp(sys.argv[2], sys.argv[2:])
`;

const nginx: Contender = {
  name: "nginx stream",
  program: "nginx",
  version: ["nginx", "-v"],
  workersMax: 2,
  idleMax: 5_000,
  command: async ({ folder, port, spoofs, backend, workers, connections }) => {
    const file = join(folder, `nginx-${port}.conf`);
    await Bun.write(
      file,
      `${nginxMain(folder, `nginx-${port}`, workers, 2 * connections)}
stream {
  access_log off;
  server {
    listen ${spoofs ? "0.0.0.0" : "127.0.0.1"}:${port};
    proxy_pass ${backend.address}:${backend.port};
    ${spoofs ? "proxy_bind $remote_addr transparent;" : ""}
  }
}
`,
    );
    const command = ["nginx", "-c", file];
    return spoofs ? ["python3", "-c", transparentListener, String(port), ...command] : command;
  },
};

/** The part of nginx's configuration that proxy and backend have in common. */
export function nginxMain(folder: string, name: string, workers: number, connections: number) {
  return `load_module modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes ${workers};
worker_rlimit_nofile 20000;
pid ${join(folder, name)}.pid;
error_log ${join(folder, name)}.log;
events { worker_connections ${connections}; }
`;
}

/** How far above the port of its front a proxy listens. */
export const behindFront = 1_000;

const goMmproxy: Contender = {
  name: "go-mmproxy",
  program: "go-mmproxy",
  version: ["dpkg-query", "--show", "go-mmproxy"],
  workersMax: 1,
  // Two pipes a connection, idle or not.
  idleMax: 1_000,
  onlySpoofing: true,
  command: async ({ port, backend }) => [
    ...["go-mmproxy", "-l", `127.0.0.1:${port + behindFront}`],
    ...["-4", `${backend.address}:${backend.port}`],
  ],
  front: async (job) => {
    const file = join(job.folder, `sender-${job.port}.cfg`);
    const behind = { ...job, backend: { address: "127.0.0.1", port: job.port + behindFront } };
    await Bun.write(file, haproxyConfiguration(behind, " transparent", " send-proxy"));
    return ["haproxy", "-db", "-q", "-f", file];
  },
};

/** In the order of the table's columns. */
export const contenders = [us, haproxy, nginx, goMmproxy].filter(
  ({ program }) => program === undefined || which(program) !== undefined,
);
