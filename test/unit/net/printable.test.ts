import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { renderExplanation, renderSections } from "../../../src/diagnose/report.ts";
import { printColored, printJson, printLine, printLines } from "../../../src/net/printable.ts";
import { quote } from "../../../src/net/result.ts";

const unsafe = /[\p{C}\p{Zl}\p{Zp}]/u;

/** C0, DEL, C1, bidirectional, invisible, separators, a lone surrogate, unassigned. */
const evil = "\x1b[2J\x07\x7f\x9b31m\x85\u202e\u2066\u200b\u2028\u2029\ud800\u{e0001}\u0378";

describe("text from elsewhere", () => {
  test("is escaped where it would drive a terminal", () => {
    const shown =
      "\\x1b[2J\\x07\\x7f\\x9b31m\\x85\\u{202e}\\u{2066}\\u{200b}\\u{2028}\\u{2029}" +
      "\\u{d800}\\u{e0001}\\u{378}";
    expect(printLine(evil)).toBe(shown);
    expect(printLines(evil)).toBe(shown);
    expect(printColored(evil)).toBe(shown);
    expect(printLine("a\nb\tc")).toBe("a\\x0ab\\x09c");
    expect(printLines("a\nb\tc\r\n")).toBe("a\nb\tc\\x0d\n");
    expect(printLine("café 日本 \u{1f600}")).toBe("café 日本 \u{1f600}");
  });

  test("keeps our own colours, and no style that hides text", () => {
    expect(printColored("\x1b[32mok\x1b[0m")).toBe("\x1b[32mok\x1b[0m");
    expect(printColored("\x1b[1;2mUsage\x1b[0m")).toBe("\x1b[1;2mUsage\x1b[0m");
    expect(printColored("\x1b[8mno\x1b[H")).toBe("\\x1b[8mno\\x1b[H");
    expect(printColored("\x1b[1;8mno")).toBe("\\x1b[1;8mno");
    expect(printLines("\x1b[32mok")).toBe("\\x1b[32mok");
  });

  test("is the same value in JSON, which has no unsafe character", () => {
    expect(printJson(evil)).not.toMatch(unsafe);
    fc.assert(
      fc.property(fc.jsonValue(), fc.string({ unit: "binary" }), (value, text) => {
        const json = printJson({ value, text, evil });
        expect(json).not.toMatch(unsafe);
        expect(JSON.parse(json)).toEqual(JSON.parse(JSON.stringify({ value, text, evil })));
      }),
    );
    expect(printJson({ a: [1] }, 2)).toBe('{\n  "a": [\n    1\n  ]\n}');
  });

  test("has one line in errors and findings, whatever it is", () => {
    expect(quote(evil)).not.toMatch(unsafe);
    const finding = {
      check: "firewall",
      severity: "failure",
      text: `x\n  ok ${evil}`,
      repair: evil,
    };
    const section = { title: "Path", findings: [finding as never] };
    const plain = { colors: false, columns: undefined };
    const text = renderSections([section], plain);
    expect(text.replaceAll("\n", "")).not.toMatch(unsafe);
    expect(text.split("\n").length).toBe(6);
    const explanation = { steps: [finding as never], works: false, conclusion: `no\n${evil}` };
    expect(renderExplanation(explanation, plain).replaceAll("\n", "")).not.toMatch(unsafe);
    expect(renderExplanation(explanation, plain).split("\n").length).toBe(5);
  });
});
