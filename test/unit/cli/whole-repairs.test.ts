import { expect, test } from "bun:test";
import { withWholeRepairs } from "../../../src/cli/whole-repairs.ts";

const doctor = "doctor --listen :50080 --dport 80 --in eth* --json --probe=8.8.8.8:80".split(" ");

test.each([
  ["tproxy routes --print", "sudo tproxy routes --apply --dport 80 --in 'eth*'"],
  [
    "tproxy routes --print --reply-path",
    "sudo tproxy routes --apply --dport 80 --in 'eth*' --reply-path",
  ],
  ["tproxy routes --print --local …", "sudo tproxy routes --apply --dport 80 --in 'eth*' --local"],
  ["tproxy routes --check …", "sudo tproxy routes --check --dport 80 --in 'eth*'"],
  [
    "tproxy routes --apply --backend 10.0.0.2:80 …",
    "sudo tproxy routes --apply --dport 80 --in 'eth*' --backend 10.0.0.2:80",
  ],
  [
    "sudo tproxy doctor …",
    "sudo tproxy doctor --listen :50080 --dport 80 --in 'eth*' --json --probe=8.8.8.8:80",
  ],
  ["ip rule add priority 100 fwmark 1 lookup 100", "ip rule add priority 100 fwmark 1 lookup 100"],
])("%s", (repair, whole) => {
  const finding = { check: "x", severity: "failure", text: "x" } as const;
  expect(withWholeRepairs([finding, { ...finding, repair }], doctor)).toEqual([
    finding,
    { ...finding, repair: whole },
  ]);
});

test("an option that was given is not given twice, and without any the repair stays", () => {
  const finding = { check: "x", severity: "failure", text: "x" } as const;
  const repairOf = (repair: string, ...args: string[]) =>
    withWholeRepairs([{ ...finding, repair }], args)[0]?.repair;
  expect(repairOf("tproxy routes --print --local …", "doctor", "--local", "--dport", "80")).toBe(
    "sudo tproxy routes --apply --local --dport 80",
  );
  expect(repairOf("tproxy routes --print", "doctor", "--udp")).toBe("tproxy routes --print");
  expect(repairOf("sudo tproxy explain …", "explain", "bind", ":80")).toBe(
    "sudo tproxy explain bind :80",
  );
});
