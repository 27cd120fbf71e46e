import { describe, expect, test } from "bun:test";
import { renderIptables } from "../../../src/capture/render/iptables.ts";
import { renderNft } from "../../../src/capture/render/nft.ts";
import { commandsOf, planFor } from "../../../src/demo/addresses.ts";
import { JsonReport, type Report, TextReport } from "../../../src/demo/report.ts";
import type { Sink } from "../../../src/log/sink.ts";
import { parseCidr } from "../../../src/net/cidr.ts";

class Recorder implements Sink {
  readonly isTerminal = false;
  readonly colors: boolean;
  readonly columns: number | undefined;
  text = "";

  constructor(colors = false, columns?: number) {
    this.colors = colors;
    this.columns = columns;
  }

  async write(text: string): Promise<void> {
    this.text += text;
  }
}

const long = "word ".repeat(60).trim();

async function play(report: Report): Promise<void> {
  report.begin();
  report.act(1, "The first", long);
  report.commands(commandsOf(renderNft(planFor({}))));
  report.output("listener", "[+] Bound to tcp://0.0.0.0:80\n\nGET / HTTP/1.1\n");
  report.note(long);
  report.claim({ step: "one", text: long, ok: true, evidence: { fact: 1 }, because: [long] });
  report.claim({ step: "two", text: "It is so.", ok: false, evidence: {} });
  report.act(2, "The second", "Not for this kernel.");
  report.skip("this kernel has no IPv6");
  const acts = [
    { act: 1, title: "The first", ok: false },
    { act: 2, title: "The second", ok: true },
  ];
  report.end({ acts, skipped: ["The second: this kernel has no IPv6"] });
  await report.flush();
}

describe("TextReport", () => {
  for (const [columns, most] of [
    [undefined, 100],
    [300, 100],
    [60, 60],
  ] as const) {
    test(`keeps to ${most} columns where there are ${columns ?? "any"}`, async () => {
      const sink = new Recorder(false, columns);
      await play(new TextReport(sink));
      const lengths = sink.text.split("\n").map((line) => [...line].length);
      // The last line, for scripts to read, is never broken.
      expect(Math.max(...lengths.slice(0, -2))).toBeLessThanOrEqual(most);
      expect(Math.max(...lengths)).toBeGreaterThan(most - 12);
    });
  }

  test("has neither colours nor blanks at the end of a line", async () => {
    const sink = new Recorder();
    await play(new TextReport(sink));
    expect(sink.text).not.toContain("\x1b");
    expect(sink.text).not.toMatch(/ \n/);
    expect(sink.text).toContain("\n  ✗ It is so.\n");
    expect(sink.text).toContain("\n  listener | [+] Bound to tcp://0.0.0.0:80\n  listener |\n");
    expect(sink.text).toContain("\n  Not played: this kernel has no IPv6.\n");
    expect(sink.text).toEndWith(
      "\n✗ 2 acts (1 not played), 2 claims, 1 not true (act 1). " +
        "Nothing on this machine was changed.\n",
    );
  });

  test("says the same in colours", async () => {
    const [plain, colored] = [new Recorder(), new Recorder(true)];
    await play(new TextReport(plain));
    await play(new TextReport(colored));
    expect(colored.text).toContain("\x1b[32m✓\x1b[0m");
    expect(Bun.stripANSI(colored.text)).toBe(plain.text);
  });
});

test("JsonReport has one object a line, the summary last", async () => {
  const sink = new Recorder();
  await play(new JsonReport(sink));
  const objects = sink.text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(objects).toMatchObject([
    { act: 1, step: "one", ok: true, evidence: { fact: 1 } },
    { act: 1, step: "two", ok: false, evidence: {} },
    { act: 2, step: "skipped", ok: null, evidence: { reason: "this kernel has no IPv6" } },
    { summary: true, ok: false, claims: 2, failed: 1, changed: [] },
  ]);
});

describe("commandsOf", () => {
  test("the article's three, verbatim", () => {
    expect(commandsOf(renderIptables(planFor({})))).toEqual([
      "ip route add local 0.0.0.0/0 dev lo table 100",
      "ip rule add fwmark 1 table 100",
      "iptables -t mangle -A PREROUTING -i lo -p tcp -d 8.8.8.8 -j MARK --set-xmark 0x1/0x1",
    ]);
  });

  test("what a person would type to take a plan back", () => {
    const network = parseCidr("8.8.8.8");
    if (!network.ok) throw new Error(network.error);
    const plan = planFor({ destinations: [network.value] });
    expect(commandsOf(renderNft(plan, { undo: true }))).toEqual([
      "nft delete table inet tproxyd",
      "ip rule del priority 100 fwmark 0x1/0x1 table 100 protocol 116",
      "ip route del local 0.0.0.0/0 dev lo table 100 protocol 116",
    ]);
  });
});
