/**
 * How soon 20,000 networks are captured: by `routes --apply`, by the printed nft script, and by
 * ipset with iptables-restore. Each run has a network namespace of its own.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unshareCommand } from "../helpers/netns.ts";
import { which } from "../helpers/tools.ts";
import { tproxy } from "../helpers/tproxy.ts";
import { markdownTable, Recorder, type Row, type Series } from "./statistics.ts";

const count = 20_000;

/** Networks of which no two can be merged into one. */
const networks = Array.from({ length: count }, (_, i) => {
  const at = 2 * i;
  return `20.${(at >> 8) & 255}.${at & 255}.0/24`;
});

const routes = [
  "ip route add local default dev lo table 100 protocol 116",
  "ip rule add priority 100 fwmark 0x1/0x1 table 100 protocol 116",
];

const ipset = `create captured hash:net maxelem 65536
${networks.map((network) => `add captured ${network}`).join("\n")}
`;

const iptables = `*mangle
:TPROXY_CAPTURE - [0:0]
-A PREROUTING -j TPROXY_CAPTURE
${[
  "-A TPROXY_CAPTURE -p tcp -m set --match-set captured dst",
  "-j TPROXY --on-port 50080 --tproxy-mark 0x1/0x1",
].join(" ")}
COMMIT
`;

/** Command lines by what they measure, all of files in `folder`. */
async function makeCommands(folder: string): Promise<Record<string, readonly string[]>> {
  const list = join(folder, "list");
  await Bun.write(list, `${networks.join("\n")}\n`);
  const capture = ["--dst", `@${list}`, "--to-port", "50080"];
  const print = Bun.spawnSync([
    ...[...tproxy, "routes", "--print", "--dialect", "nft"],
    ...capture,
  ]);
  await Bun.write(join(folder, "nft.sh"), print.stdout);
  await Bun.write(join(folder, "ipset"), ipset);
  await Bun.write(join(folder, "iptables"), iptables);
  await Bun.write(
    join(folder, "ipset.sh"),
    `set -e\n${routes.join("\n")}\nipset restore < "$1/ipset"\niptables-restore < "$1/iptables"\n`,
  );
  const apply = [...tproxy, "routes", "--apply", ...capture];
  return {
    "tproxy routes --apply": apply,
    ...(which("nft") === undefined
      ? {}
      : { "the printed script: nft -f": ["sh", "-e", join(folder, "nft.sh")] }),
    ...(which("ipset") === undefined
      ? {}
      : { "ipset restore, iptables-restore": ["sh", join(folder, "ipset.sh"), folder] }),
  };
}

/** Milliseconds that a command takes in a fresh namespace where lo is up. */
async function run(command: readonly string[]): Promise<number> {
  const inside = ["sh", "-c", 'ip link set lo up; exec "$@"', "sh", ...command];
  const started = performance.now();
  const child = Bun.spawn([...unshareCommand, ...inside], { stdout: "ignore", stderr: "pipe" });
  const [status, problems] = await Promise.all([child.exited, child.stderr.text()]);
  if (status !== 0) throw new Error(`${command[0]}: ${problems}`);
  return performance.now() - started;
}

/** Measures `rounds` times, all ways in turns. Milliseconds from the start to the end. */
export async function measureRules(rounds: number): Promise<Series[]> {
  const recorder = new Recorder();
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  try {
    const commands = Object.entries(await makeCommands(folder));
    for (let round = 0; round < rounds; round++) {
      for (const [name, command] of commands) recorder.add(name, await run(command));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

/** The table of what `measureRules` found, each against `nft -f`. */
export function rulesTable(rows: readonly Row[]): string {
  const base = rows.find(({ name }) => name.includes("nft"))?.median ?? Number.NaN;
  return markdownTable(
    ["20,000 networks", "median, ms", "min", "max", "of nft -f"],
    rows.map(({ name, median, min, max }) => [
      name,
      ...[median, min, max].map((each) => each.toFixed(0)),
      (median / base).toFixed(2),
    ]),
  );
}
