/**
 * rtnetlink, nf_tables, ctnetlink and namespaces on the running kernel: the tests of
 * `netlink/*.ts`, in network namespaces of their own, as root and as what an ordinary user gets by
 * `unshare -Urn`.
 */

import { test } from "bun:test";
import { join } from "node:path";

const options = process.getuid?.() === 0 ? ["-n", "-Urn"] : ["-Urn"];
const folder = join(import.meta.dir, "netlink");

for (const option of options) {
  for (const name of ["namespaces", "objects", "nftables", "conntrack"]) {
    const canRun = Bun.spawnSync(["unshare", option, "true"]).success;
    const title = `${name} under unshare ${option}`;
    if (canRun) test(title, () => runInside(option, name), 240_000);
    else test.skip(`${title} [not permitted]`, () => {});
  }
}

async function runInside(option: string, name: string): Promise<void> {
  const tests = ["test", "--timeout", "30000", join(folder, `${name}.ts`)];
  const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
  const child = Bun.spawn(["unshare", option, process.execPath, ...tests], {
    env: { ...process.env, PATH },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const report = await child.stderr.text();
  if ((await child.exited) !== 0 || !/^ *[1-9]\d* pass$/m.test(report)) throw new Error(report);
}
