/**
 * What `forward` does to bytes: nothing. Hundreds of connections at once, both ways, with random
 * chunks, pauses, half-closes and resets among them. TPROXY_SOAK=N moves about N gigabytes a test.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { testWith } from "../helpers/tools.ts";

const python = (name: string) => readFileSync(new URL(name, import.meta.url), "utf8");
const files = {
  "exchange.py": python("exchange.py"),
  "pipes.py": python("pipes.py"),
};

const soak = Number(process.env.TPROXY_SOAK ?? "0");
const bytes = Math.round((soak || 0.12) * 1e9);
const timeoutMs = 180_000 + soak * 60_000;

/** `exchange` through the proxy, judged once everything has settled. */
const functions = (asked: string) => `
  seed=${crypto.getRandomValues(new Uint32Array(1))[0]}
  in_background backend python3 exchange.py server 8080 server.txt
  until within backend ss -Hltn | grep -q :8080; do :; done
  begin() {
    within client python3 exchange.py client '${asked}' 80 \
      350 "\${parallel:-100}" ${bytes} "$seed" client.txt
  }
  exchange() {
    begin
    settled
    echo "seed $seed, moved" $(awk '/p0:/ { print $2 + $10 }' /proc/net/dev)
    python3 exchange.py judge client.txt server.txt 350
  }
`;

async function exchanged(asked: string, script: string): Promise<string> {
  const { stdout } = await inLab(`${functions(asked)}${script}`, files, timeoutMs - 5_000);
  expect(stdout).toContain("all as it has to be");
  if (soak > 0) process.stdout.write(stdout);
  return stdout;
}

const testBytes = testInLab(["python3"]);

describe("every stream arrives as it was sent, and ends as it ended", () => {
  for (const { family, asked, backend } of families) {
    testBytes(
      `over IPv${family}`,
      async () => {
        await exchanged(
          asked.replace(/[[\]]/g, ""),
          `forward --quiet '[::]:50080' --to '${backend}:8080'
          exchange`,
        );
      },
      timeoutMs,
    );
  }

  testBytes(
    "behind and in front of the PROXY protocol, with two Workers",
    async () => {
      await exchanged(
        "8.8.8.8",
        `forward --quiet 10.9.2.1:50081 --to 10.9.2.2:8080 --accept-proxy=10.9.2.1
        behind=$proxy had=$sockets
        forward --quiet :50080 --to 10.9.2.1:50081 --source self --send-proxy v2 --workers 2
        exchange
        proxy=$behind sockets=$had
        settled`,
      );
    },
    timeoutMs,
  );

  testInLab(["python3", "prlimit"])(
    "where descriptors are few: 24 connections at once, 12 pipes",
    async () => {
      const found = await exchanged(
        "8.8.8.8",
        `launcher="prlimit --nofile=160" parallel=24
        forward --quiet :50080 --to 10.9.2.2:8080
        exchange
        echo "pipes $(descriptors pipe:)"`,
      );
      expect(Number(/pipes (\d+)/.exec(found)?.[1])).toBeLessThanOrEqual(24);
    },
    timeoutMs,
  );

  testWith(["python3", "setpriv", "ip", "nft", "ss", "nsenter"], {
    root: process.getuid?.() === 0,
  })(
    "where the kernel gives no pipes",
    async () => {
      const found = await exchanged(
        "8.8.8.8",
        // A user of nobody, whose pages for pipes are used up.
        `launcher="setpriv --reuid 54321 --regid 54321 --clear-groups"
        chmod 755 .
        in_background client $launcher python3 pipes.py > held
        until grep -q held held; do :; done
        launcher="$launcher --inh-caps +net_admin --ambient-caps +net_admin"
        forward --quiet :50080 --to 10.9.2.2:8080
        exchange
        echo "pipes $(descriptors pipe:)"`,
      );
      expect(found).toContain("pipes 0\n");
    },
    timeoutMs,
  );
});

describe("whoever does not read", () => {
  testBytes(
    "stops its own sender, nobody else, and takes no memory",
    async () => {
      const { stdout } = await inLab(
        `${functions("8.8.8.8")}
        forward --quiet :50080 --to 10.9.2.2:8080
        exchange
        : > client.txt
        mkfifo input
        inflow() { awk '/p1:/ { print $2 }' /proc/net/dev; }
        unread() { within client ss -Htn | awk '$2 > 0' | wc -l; }
        # Nothing comes in but probes of windows, and each of them has something to read.
        is_stalled() {
          was=$(inflow); sleep 0.3
          [ $(($(inflow) - was)) -lt 50000 ] && [ "$(unread)" = 50 ]
        }
        echo "before $(rss) $(inflow)"
        within client python3 exchange.py stall 8.8.8.8 80 50 < input &
        exec 3> input
        until_true is_stalled
        echo "stalled $(rss) $(inflow)"
        : > server.txt
        begin
        echo "after $(rss)"
        until_true is_stalled
        exec 3>&-
        settled
        python3 exchange.py judge client.txt server.txt 350 50`,
        files,
        timeoutMs,
      );
      expect(stdout.match(/all as it has to be/g)).toHaveLength(2);
      const [[before, empty], [stalled, full], [after]] = ["before", "stalled", "after"].map(
        (moment) => new RegExp(`${moment} (.*)`).exec(stdout)?.[1]?.split(" ").map(Number) ?? [],
      ) as [[number, number], [number, number], [number]];
      // Of each of them much is on its way, all in the kernel: nothing is kept here.
      expect(full - empty).toBeGreaterThan(15e6);
      expect(1024 * (Math.max(stalled, after) - before)).toBeLessThan((full - empty) / 2);
    },
    timeoutMs,
  );
});
