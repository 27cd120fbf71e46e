/** Checks of upstreams among three hosts: from an own address, past our own capture. */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testRun = testInLab(["curl"]);

const functions = `
${ruleFunctions}
serve() {
  : > proxy.log
  ${command} run -c "$1" >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until_true has_worker
}
asking() { within client curl -sS --max-time 20 --http0.9 "$@" 2> curl.log || echo refused; }
`;

/** What this host sends to that port is captured, too: a check without a mark would come back. */
const configuration = (backend: string) => `
[log]
format = "json"
[routes]
install = "auto"
[[pool]]
name = "web"
when-all-down = "refuse"
check = { type = "tcp", interval = "200ms" }
[[pool.upstream]]
name = "only"
to = "${backend}:8080"
[[service]]
name = "web"
listen = "[::]:50080"
pool = "web"
capture = { dport = [8080], local = true }
`;

/** Comes with a reload. Nothing listens there: a check that were captured would be answered. */
const more = (backend: string) => `
[[pool]]
name = "two"
check = { type = "tcp", interval = "200ms" }
to = "${backend}:8082"
[[service]]
name = "two"
listen = "[::]:50082"
pool = "two"
capture = { dport = [8082], local = true }
`;

describe.each(families)("IPv$family", ({ family, asked, backend }) => {
  testRun("a check has an own address and is not captured; refuse refuses at once", async () => {
    const own = family === "4" ? "10.9.2.1" : "[fd00:2::1]";
    const {
      stdout,
      proxy,
      backend: seen,
    } = await inLab(
      `${functions}
      at_backend listen --json '[::]:8080' --reply first
      serve run.toml
      until_true grep -q accepted backend.log
      asking 'http://${asked}:8080/'
      kill "$server"; wait "$server" || :
      until_true grep -q '"to":"down"' proxy.log
      asking 'http://${asked}:8080/'
      at_backend listen --json '[::]:8080' --reply second
      until_true grep -q '"to":"up"' proxy.log
      asking 'http://${asked}:8080/'
      cat more.toml >> run.toml
      kill -HUP "$proxy"
      until_true grep -q '"pool":"two".*"to":"down"' proxy.log
      kill "$proxy"; wait "$proxy" && echo "ended with 0"
    `,
      { "run.toml": configuration(backend), "more.toml": more(backend) },
    );
    expect(stdout).toContain("first\nrefused\nsecond\nended with 0\n");
    const changes = proxy.filter(({ event }) => event === "upstream");
    expect(changes).toMatchObject([
      { pool: "web", upstream: "only", address: `${backend}:8080`, to: "down", taking: 0 },
      { pool: "web", upstream: "only", address: `${backend}:8080`, to: "up", taking: 1 },
      { pool: "two", to: "down", reason: "connection refused", taking: 0 },
    ]);
    expect(changes[0]).toMatchObject({ from: "up", reason: "connection refused" });
    const ends = proxy.filter(({ event }) => event === "forwarded" || event === "refused");
    expect(ends.map(({ reason }) => reason)).toEqual(["done", "no-upstream", "done"]);
    const clients = seen.filter(({ event }) => event === "accepted").map((each) => each.client);
    const checks = clients.filter((each) => String(each).startsWith(`${own}:`));
    expect(checks.length).toBeGreaterThan(0);
    expect(clients.length - checks.length).toBe(1);
  });
});
