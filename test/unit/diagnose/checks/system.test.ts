/** The checks of the system, and where a probe ended: one change of the facts, one finding. */

import { describe, expect, test } from "bun:test";
import { judgeSystem } from "../../../../src/diagnose/checks/system.ts";
import type { ProbeSeen } from "../../../../src/diagnose/probe/verdict.ts";
import { judgeProbe } from "../../../../src/diagnose/probe/verdict.ts";
import { conclusion, hasFailure, renderSections } from "../../../../src/diagnose/report.ts";
import type { SystemFacts } from "../../../../src/diagnose/snapshot/system-facts.ts";

const settings = new Map([
  ["net.ipv4.ip_forward", 1],
  ...["src_valid_mark", "rp_filter", "accept_local", "route_localnet"].map(
    (name) => [`net.ipv4.conf.all.${name}`, 0] as const,
  ),
]);
const sound: SystemFacts = {
  capabilities: new Set(["CAP_NET_ADMIN", "CAP_NET_RAW"]),
  ownsNetwork: true,
  needs: [],
  fileCapabilities: false,
  executable: "/usr/bin/tproxy",
  obeysVariables: true,
  features: { kind: "tested", missing: new Map() },
  loUp: true,
  sysctls: settings,
  bridges: [],
  descriptorsMax: 1_048_576,
  conntrack: undefined,
  left: [],
};
const tracked = { entries: 10, max: 1000, timeWaitS: 120, dropped: 0 };
const sysctl = (name: string) => ({ sysctls: new Map([...settings, [name, 1]]) });
/** /proc/sys without some of what it has. */
const unread = (...names: string[]) => ({
  sysctls: new Map([...settings].filter(([name]) => !names.some((each) => name.endsWith(each)))),
});
const bridgeCall = sysctl("net.bridge.bridge-nf-call-iptables");
const without = (...names: string[]) => {
  const missing = new Map(names.map((name) => [name, "ENOENT"]));
  return { features: { kind: "tested", missing } } as unknown as Partial<SystemFacts>;
};

const faults: [name: string, changes: Partial<SystemFacts>, severity: string, text: RegExp][] = [
  ["no capability", { capabilities: new Set() }, "failure", /CAP_NET_ADMIN or CAP_NET_RAW/],
  ["CAP_NET_RAW alone", { capabilities: new Set(["CAP_NET_RAW"]) }, "warning", /rules and routes/],
  ["file capabilities", { fileCapabilities: true }, "warning", /BUN_OPTIONS or BUN_BE_BUN/],
  ["unreadable attributes", { fileCapabilities: undefined }, "unknown", /cannot be read/],
  ["features not tried", { features: { kind: "untested", reason: "EPERM" } }, "unknown", /EPERM/],
  ["no TPROXY at all", without("nft tproxy", "xt_TPROXY"), "failure", /nft tproxy \(ENOENT\)/],
  ["no TPROXY of nft", without("nft tproxy"), "warning", /Use iptables/],
  ["no TPROXY of iptables", without("xt_TPROXY"), "warning", /Use nft/],
  ["lo down", { loUp: false }, "failure", /lo is down/],
  ["src_valid_mark", sysctl("net.ipv4.conf.all.src_valid_mark"), "warning", /dropped in silence/],
  ["bridges", { bridges: ["br0"], ...bridgeCall }, "warning", /packets of br0 pass PREROUTING/],
  ["an unread setting", unread("accept_local"), "unknown", /^accept_local: cannot be read/],
  ["forwarding unread", unread("ip_forward"), "unknown", /^ip_forward: cannot be read/],
  ["few descriptors", { descriptorsMax: 1024 }, "warning", /some 170 connections/],
  [
    "a table near full",
    { conntrack: { ...tracked, entries: 750 } },
    "warning",
    /\(75 %\).*dropped/,
  ],
  [
    "a table that was full",
    { conntrack: { ...tracked, dropped: 3 } },
    "warning",
    /^10 .*3 packets/,
  ],
  ["an unknown limit", { descriptorsMax: undefined }, "unknown", /cannot be read/],
];

describe("judgeSystem", () => {
  const judge = (changes: Partial<SystemFacts>) => judgeSystem({ ...sound, ...changes });

  test("nothing is wrong with a sound system, nor with a bridge call that has no bridge", () => {
    expect(judge({}).filter(({ severity }) => severity !== "ok")).toEqual([]);
    expect(judge(bridgeCall).filter(({ severity }) => severity !== "ok")).toEqual([]);
  });

  test("file capabilities are none of a static executable's faults", () => {
    const found = judge({ fileCapabilities: true, obeysVariables: false });
    expect(found.find(({ check }) => check === "executable")).toMatchObject({
      severity: "ok",
      text: "It carries file capabilities: anyone who may start it uses tproxy with them.",
    });
  });

  test.each(faults)("%s", (_, changes, severity, text) => {
    const found = judge(changes).filter((each) => each.severity !== "ok");
    expect(found.map((each) => each.severity)).toEqual([severity as "failure"]);
    expect(found[0]?.text).toMatch(text);
  });
});

const reached = {
  arrival: 1,
  prerouted: 1,
  forwarded: 0,
  delivered: 1,
  accepted: 1,
  answered: 1,
  sent: 1,
};
const connected: ProbeSeen = {
  protocol: "tcp",
  destination: "8.8.8.8",
  counts: reached,
  outcome: "connected",
  moved: [],
  standIn: undefined,
  insteadOf: "eth0",
  cause: undefined,
};
const nothing = {
  arrival: 0,
  prerouted: 0,
  forwarded: 0,
  delivered: 0,
  accepted: 0,
  answered: 0,
  sent: 0,
};
const upTo = (...hops: (keyof typeof reached)[]) => ({
  outcome: "timeout" as const,
  counts: { ...nothing, ...Object.fromEntries(hops.map((hop) => [hop, 1])) },
});
const udp = { protocol: "udp", outcome: "sent" } as const;

const ends: [name: string, changes: Partial<ProbeSeen>, check: string, text: RegExp][] = [
  ["nothing arrives", upTo(), "arrival", /never came in/],
  ["dropped first", upTo("arrival"), "prerouting", /dropped in PREROUTING/],
  ["dropped by routing", upTo("arrival", "prerouted"), "routing", /dropped when it was routed/],
  ["routed on", upTo("arrival", "prerouted", "forwarded"), "routing", /the probe has stopped it/],
  ["dropped in INPUT", upTo("arrival", "prerouted", "delivered"), "input", /dropped in INPUT/],
  ["no socket", upTo("arrival", "prerouted", "delivered", "accepted"), "socket", /No SYN-ACK/],
  ["refused", { outcome: "refused" }, "socket", /refused/],
  [
    "no way out",
    { outcome: "timeout", counts: { ...reached, sent: 0 } },
    "answer",
    /did not leave/,
  ],
  ["lost on the way back", { outcome: "timeout" }, "answer", /did not reach the client/],
  ["no socket for a datagram", { ...udp, moved: ["UdpNoPorts +1"] }, "socket", /UdpNoPorts \+1/],
];

describe("judgeProbe", () => {
  test.each(ends)("%s", (_, changes, check, text) => {
    const found = judgeProbe({ ...connected, ...changes });
    expect(found.slice(0, -1).every(({ severity }) => severity === "ok")).toBe(true);
    expect(found.at(-1)).toMatchObject({ check, severity: "failure" });
    expect(found.at(-1)?.text).toMatch(text);
  });

  test("what the rules say of it follows, with the repair", () => {
    const cause = { check: "source", severity: "failure", text: "Why.", repair: "do" } as const;
    const found = judgeProbe({ ...connected, ...upTo("arrival", "prerouted"), cause }).at(-1);
    expect(found).toMatchObject({
      text: "The SYN was dropped when it was routed. Why.",
      repair: "do",
    });
  });

  test("a connection, an answer and a datagram that a socket took are fine", () => {
    const fine = [{}, { ...udp, outcome: "answered" }, { ...udp, moved: ["UdpInDatagrams +1"] }];
    for (const changes of fine) {
      const found = judgeProbe({ ...connected, ...changes } as ProbeSeen);
      expect(found.every(({ severity }) => severity === "ok")).toBe(true);
    }
    expect(judgeProbe({ ...connected, ...udp }).at(-1)?.severity).toBe("unknown");
  });
});

describe("report", () => {
  const section = (severity: "ok" | "warning" | "failure" | "unknown", check = "x") => ({
    title: "T",
    findings: [{ check, severity, text: "Text.", repair: "do" }],
  });

  test("the last line counts", () => {
    expect(conclusion([section("ok")])).toBe("Nothing is wrong.");
    expect(conclusion([section("ok"), section("warning")])).toBe("Nothing is broken; 1 warning.");
    expect(conclusion([section("unknown")])).toBe(
      "Nothing wrong was found. 1 could not be checked.",
    );
    expect(conclusion([section("failure", "lo"), section("failure", "lo")])).toBe(
      "It will not work as it is: lo.",
    );
  });

  test("failures and probes that could not be made decide the exit status", () => {
    expect(hasFailure([section("warning"), section("unknown")])).toBe(false);
    expect(hasFailure([section("failure")])).toBe(true);
    expect(hasFailure([section("unknown", "probe")])).toBe(true);
  });

  test("a line each, and one for the repair", () => {
    expect(renderSections([section("failure", "lo")], { colors: false, columns: undefined })).toBe(
      "T\n  FAILURE  lo             Text.\n                          repair: do\n\n" +
        "It will not work as it is: lo.\n",
    );
    expect(renderSections([section("ok")], { colors: true, columns: undefined })).toContain(
      "\x1b[32m",
    );
  });

  test("on a terminal texts keep their column, and commands stay whole", () => {
    const text = "It has this and that and many other things.";
    const finding = { check: "lo", severity: "ok", text, repair: `do ${"x".repeat(60)}` } as const;
    const margin = " ".repeat(26);
    const shown = renderSections([{ title: "T", findings: [finding] }], {
      colors: false,
      columns: 50,
    });
    expect(shown).toContain(
      `  ok       lo             It has this and that and\n${margin}many other things.\n` +
        `${margin}repair: do ${"x".repeat(60)}\n`,
    );
  });
});
