/**
 * `forward` under full load with churn: keep-alive, a connection for each request, bulk both ways,
 * resets and half-closes. Afterwards every descriptor is back, and memory has not grown with time.
 * TPROXY_SOAK=N takes N minutes and prints the slopes.
 */

import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { inLab, nginxConfiguration, testInLab } from "../helpers/forward-lab.ts";

const minutes = Number(process.env.TPROXY_SOAK ?? "0");
const seconds = minutes > 0 ? 60 * minutes : 6;
const timeoutMs = 150_000 + 2_000 * seconds;

const files = {
  "exchange.py": readFileSync(new URL("exchange.py", import.meta.url), "utf8"),
  "nginx.conf": nginxConfiguration(`
  access_log off;
  server {
    listen 198.51.100.1:80 backlog=1024;
    location / { return 200 "from nginx\n"; }
  }
`),
};

/** Each kind of load has an address of the backend to itself. */
const script = `
mkdir temp
ip route add 198.51.100.0/24 via 10.9.2.2
for n in 1 2 3; do within backend ip address add "198.51.100.$n/32" dev lo; done
in_background backend nginx -p "$PWD" -c nginx.conf
in_background backend iperf3 -s -B 198.51.100.2 -p 80 > iperf.txt
in_background backend python3 exchange.py server 80 server.txt 198.51.100.3
three() { [ "$(within backend ss -Hltn sport = :80 | wc -l)" = 3 ]; }
until three; do :; done
forward :50080 --to original
load() {
  within client wrk -t1 -c50 -d${seconds} http://198.51.100.1/ > keep.txt &
  within client wrk -t1 -c20 -d${seconds} -H 'Connection: close' http://198.51.100.1/ > churn.txt &
  within client iperf3 -c 198.51.100.2 -p 80 --bidir -P 2 -t ${seconds} > bulk.txt &
  while [ "$(date +%s)" -lt "$end" ]; do
    : > client.txt; : > server.txt
    within client python3 exchange.py client 198.51.100.3 80 70 35 20000000 1 client.txt
    until [ "$(wc -l < server.txt)" -ge 70 ]; do sleep 0.02; done
    if ! python3 exchange.py judge client.txt server.txt 70 > verdict; then
      cat verdict >&2
      exit 1
    fi
    cat verdict
  done
  wait
  settled
}
end=$(($(date +%s) + ${seconds}))
load > judged.txt &
loading=$!
while kill -0 "$loading" 2>/dev/null; do
  echo "sample $(date +%s.%N) $(rss) $(descriptors '')"
  # The log is written to its end, wherever that is.
  [ "$(date +%s)" -ge "$end" ] || : > proxy.log
  sleep 0.25
done
wait "$loading"
echo "pipes $(descriptors pipe:)"
sort judged.txt | uniq -c
grep -h -E 'Requests/sec|Socket errors|Non-2xx' keep.txt churn.txt
grep -h -E 'SUM.*(sender|receiver)' bulk.txt
: > proxy.log
`;

/** Least squares: how much `y` grows a minute, over samples of [seconds, y]. */
function slope(samples: readonly (readonly [number, number])[]): number {
  const mean = (index: 0 | 1) => samples.reduce((sum, s) => sum + s[index], 0) / samples.length;
  const [x, y] = [mean(0), mean(1)];
  const above = samples.reduce((sum, [t, value]) => sum + (t - x) * (value - y), 0);
  return (60 * above) / samples.reduce((sum, [t]) => sum + (t - x) ** 2, 0);
}

testInLab(["nginx", "wrk", "iperf3", "python3"])(
  "full load with churn leaves nothing behind, and memory as it was",
  async () => {
    const { stdout } = await inLab(script, files, timeoutMs);
    const samples = [...stdout.matchAll(/^sample (\S+) (\d+) (\d+)$/gm)].map(
      ([, time, kibibytes, open]) => [Number(time), Number(kibibytes), Number(open)] as const,
    );
    // What is warmed up in the first half is no leak.
    const warm = samples.slice(Math.floor(samples.length / 2));
    const growth = slope(warm.map(([time, kibibytes]) => [time, kibibytes / 1024]));
    if (minutes > 0) {
      const open = slope(warm.map(([time, , count]) => [time, count]));
      const peak = Math.max(...samples.map(([, kibibytes]) => kibibytes / 1024));
      process.stdout.write(
        `${stdout.replace(/^sample.*\n/gm, "")}resident at most ${peak.toFixed(1)} MiB, ` +
          `growing by ${growth.toFixed(2)} MiB and ${open.toFixed(2)} descriptors a minute\n`,
      );
    }
    expect(stdout).toContain("all as it has to be");
    expect(stdout).not.toContain("Socket errors");
    expect(stdout).not.toContain("Non-2xx");
    const [first] = warm;
    const most = Math.max(...warm.map(([, kibibytes]) => kibibytes));
    expect(most - (first?.[1] ?? 0)).toBeLessThan(64 * 1024);
    if (minutes >= 4) expect(growth).toBeLessThan(2);
  },
  timeoutMs,
);
