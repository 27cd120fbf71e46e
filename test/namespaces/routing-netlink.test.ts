/**
 * A Plan applied by netlink is what its printed script makes, and what a check expects; removed,
 * nothing is left of it.
 */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { planNames } from "../helpers/plans.ts";
import { testWith } from "../helpers/tools.ts";

const testPlan = testWith(["ip", "nft"], { "network namespaces": canUnshare });
const program = new URL("../helpers/plans.ts", import.meta.url).pathname;

// The script starts itself again for the second namespace, where lo is up as it is in the first.
const script = (name: string) => `
plans() { "${process.execPath}" "${program}" "$1" "${name}"; }
dump() {
  {
    ip rule; ip -6 rule; ip route show table all; nft list ruleset
  } | sed 's/ counter packets 0 bytes 0//' > "$1"
}
if [ "\${1-}" = inner ]; then
  dump before; plans add; dump netlink; plans check; plans remove; dump after
  exit
fi
plans print > script
sh script
dump printed
plans check
unshare -n sh main.sh inner
diff -u printed netlink
diff -u before after
diff -q before netlink > /dev/null || echo same
`;

describe("by netlink as by the printed script:", () => {
  for (const name of planNames) {
    testPlan(name, async () => {
      const { stdout, stderr } = await inNamespace(script(name));
      expect({ stdout, stderr }).toEqual({ stdout: "same\n", stderr: "" });
    });
  }
});
