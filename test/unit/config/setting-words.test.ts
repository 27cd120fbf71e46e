import { expect, test } from "bun:test";
import { parseIntent } from "../../../src/capture/plan/intent.ts";
import { flagSetting } from "../../../src/cli/words/flag-setting.ts";
import { fileSetting, type SettingWords } from "../../../src/config/setting-words.ts";
import { conflictLine, sysctlHint } from "../../../src/control/apply-rules.ts";
import { startWarnings } from "../../../src/diagnose/checks/start.ts";

/** Texts about rules, as one of both spells their settings. */
function texts(spell: SettingWords): string[] {
  const intent = parseIntent({
    interfaces: ["eth9"],
    ports: [{ from: 80, to: 80 }],
    families: [4],
    priority: 100,
  });
  if (!intent.ok) throw new Error(intent.issue.code);
  const rule = { family: 2, priority: 50, table: 200 };
  const facts = { links: [], rules: [rule], hasRoutes: () => true, sysctl: () => undefined };
  return [
    conflictLine({ text: "the mark 0x1 is taken", setting: "mark" }, spell),
    conflictLine({ text: "the table 100 has a route of others", setting: "table" }, spell),
    conflictLine({ text: "the priority 100 is taken" }, spell),
    sysctlHint({ name: "net/ipv4/conf/p0/accept_local", value: "1", reason: "why" }, spell),
    ...startWarnings(intent.value, facts, spell),
    spell("family", "4"),
    spell("install", "none"),
    spell("table-name"),
  ];
}

test("the command line reads flags in texts about rules", () => {
  expect(texts(flagSetting)).toEqual([
    "the mark 0x1 is taken: choose others with --mark",
    "the table 100 has a route of others: choose another with --table",
    "the priority 100 is taken",
    "not set without --sysctl: net/ipv4/conf/p0/accept_local=1: why",
    "--in eth9: there is no such interface, nothing is captured until one comes; there are ",
    expect.stringMatching(/comes before ours \(100\).* give a --priority below 50, or that rule a/),
    ...["--family 4", "--routes none", "--table-name"],
  ]);
});

test("a file's author reads keys of the file in the same texts, and no flag", () => {
  const found = texts(fileSetting);
  expect(found).toEqual([
    "the mark 0x1 is taken: choose others with [routes] mark",
    "the table 100 has a route of others: choose another with [routes] table",
    "the priority 100 is taken",
    "not set without [routes] sysctl = true: net/ipv4/conf/p0/accept_local=1: why",
    'in = "eth9": there is no such interface, nothing is captured until one comes; there are ',
    expect.stringMatching(/ give a \[routes\] priority below 50, or that rule a priority above/),
    ...['family = "4"', '[routes] install = "none"', "[routes] table-name"],
  ]);
  expect(found.join("\n")).not.toMatch(/--[a-z]/);
});
