/**
 * Where UDP is measured: client – proxy – backend over veth, a namespace each, or all on one
 * loopback. nginx and tproxy run at the proxy side by side and are asked in turns.
 */

import { join } from "node:path";
import { inNamespace } from "../../helpers/netns.ts";

export const tproxy = join(import.meta.dir, "../../../dist/tproxy");

/** What one run of the generator found. */
export interface Sample {
  readonly seconds: number;
  readonly sent: number;
  readonly received: number;
  readonly lost: number;
  /** Round trips in microseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Of all processes of the proxy: CPU seconds meanwhile, resident memory after. */
  readonly cpu: number;
  readonly kib: number;
}

export type Target = "direct" | "nginx" | "tproxy";

/** One run: closed loop with so many under way, or open loop at so many a second. */
export interface Run {
  readonly key: string;
  readonly mode: "closed" | "open";
  readonly sessions: number;
  /** Bytes of a datagram; `64x8` for 8 of a session at once. */
  readonly size: string;
  readonly amount: number;
}

const SECONDS = 0.5;

const nginxConfiguration = (bind: string, upstream: string) => `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
worker_processes 1;
pid nginx.pid;
error_log nginx.log crit;
events { worker_connections 65536; }
stream {
  server {
    listen 50081 udp rcvbuf=4m;
    proxy_pass ${upstream}:8080;
    ${bind}
    proxy_timeout 60s;
  }
}
`;

/** Three namespaces, the proxy's between the client's and the backend's. */
export const hosts = `
namespace client
namespace backend
veth client p0 c0
veth backend p1 b0
ip address add 10.9.1.1/24 dev p0
ip address add 10.9.2.1/24 dev p1
within client ip address add 10.9.1.2/24 dev c0
within client ip route add default via 10.9.1.1
within client ip route add local 10.50.0.0/16 dev lo
within backend ip address add 10.9.2.2/24 dev b0
within backend ip route add default via 10.9.2.1
ip route add 10.50.0.0/16 via 10.9.1.2
echo 1 > /proc/sys/net/ipv4/ip_forward
`;

/** Those hosts. What the client sends to port 5300 of anything is captured at the proxy. */
const veth = `${hosts}
'${tproxy}' routes --print --proto udp --in p0 --dport 5300 --family 4 --reply-path \\
  --dialect nft > rules.sh
sh -e rules.sh
first=10.50.0.1
direct="10.9.2.2 8080" nginx="10.9.1.1 50081" tproxy="8.8.8.8 5300"
listen=":5300" upstream=10.9.2.2:8080 source=client
at_client() { within client "$@"; }
nsenter -t "$backend" -n ./load echo 8080 > ready &
`;

const loopback = `
first=127.16.0.1
direct="127.0.0.1 8080" nginx="127.0.0.1 50081" tproxy="127.0.0.1 50080"
listen=127.0.0.1:50080 upstream=127.0.0.1:8080 source=self
at_client() { "$@"; }
./load echo 8080 > ready &
`;

const start = `
started="$started $!"
until grep -qs ready ready; do kill -0 $!; done
background nginx -p "$PWD" -c "$PWD/nginx.conf"
nginx_pid=$!
'${tproxy}' forward "udp://$listen" --to "$upstream" --source "$source" --quiet > proxy.log &
tproxy_pids=$!
started="$started $!"
until [ -s proxy.log ]; do kill -0 $tproxy_pids; done
until [ -s nginx.pid ] && [ -n "$(cat /proc/$nginx_pid/task/$nginx_pid/children)" ]; do
  kill -0 $nginx_pid
done
nginx_pids="$nginx_pid $(cat /proc/$nginx_pid/task/$nginx_pid/children)"
direct_pids=
run() { # KEY TARGET MODE SESSIONS SIZE SECONDS AMOUNT
  key=$1; target=$2; mode=$3; shift 3
  eval "where=\\$$target pids=\\$\${target}_pids"
  printf '%s\\t%s\\t' "$key" "$target"
  at_client ./load "$mode" $where "$first" "$@" $pids
}
`;

/** Compiles the generator; the folder has to be kept until the last round. */
export function compile(folder: string): string {
  const binary = join(folder, "load");
  const source = join(import.meta.dir, "load.c");
  const built = Bun.spawnSync(["gcc", "-O2", "-o", binary, source], { stderr: "inherit" });
  if (!built.success) throw new Error("gcc failed");
  return binary;
}

/**
 * One round in fresh namespaces with fresh proxies: every run at every target, the targets of a run
 * one after the other, `turn` of them later each.
 */
export async function round(
  where: "veth" | "loopback",
  generator: string,
  targets: readonly Target[],
  runs: readonly Run[],
  turn: number,
): Promise<{ key: string; target: Target; sample: Sample }[]> {
  const lines = runs.flatMap(({ key, mode, sessions, size, amount }) =>
    targets.map((_, at) => {
      const target = targets[(at + turn) % targets.length];
      return `run '${key}' ${target} ${mode} ${sessions} ${size} ${SECONDS} ${amount}`;
    }),
  );
  const bind = where === "veth" ? "proxy_bind $remote_addr transparent;" : "";
  const upstream = where === "veth" ? "10.9.2.2" : "127.0.0.1";
  const { status, stdout, stderr } = await inNamespace(
    [`ln -s '${generator}' load`, where === "veth" ? veth : loopback, start, ...lines].join("\n"),
    {
      files: { "nginx.conf": nginxConfiguration(bind, upstream) },
      timeoutMs: 30_000 + lines.length * SECONDS * 3000,
    },
  );
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [key = "", target, json = ""] = line.split("\t");
      return { key, target: target as Target, sample: JSON.parse(json) as Sample };
    });
}
