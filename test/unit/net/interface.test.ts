import { describe, expect, test } from "bun:test";
import {
  parseInterfaceName,
  parseInterfacePattern,
  patternMatches,
} from "../../../src/net/interface.ts";

describe("parseInterfaceName", () => {
  test("takes what interfaces are called", () => {
    for (const text of ["lo", "eth0", "eth0.100", "br-0a1b2c3d4e5f", "wlp2s0", "veth_1", "x"]) {
      expect(parseInterfaceName(text)).toEqual({ ok: true, value: text });
    }
  });

  test("refuses what a kernel, a shell, nft or iptables would take for something else", () => {
    for (const text of [
      ...[
        "",
        ".",
        "..",
        "-i",
        "a/b",
        "a b",
        "a\tb",
        "a\n",
        "a\0",
        "eth+",
        "eth*",
        "!lo",
        "a,b",
        "a:1",
      ],
      ...[
        "$(id)",
        "`id`",
        "a;b",
        "a'b",
        'a"b',
        "a\\b",
        "a{b",
        "a#b",
        "a%b",
        "ä",
        "0123456789abcdef",
      ],
    ]) {
      expect(parseInterfaceName(text).ok).toBe(false);
    }
  });
});

describe("parseInterfacePattern", () => {
  const isTaken = (text: string) => parseInterfacePattern(text).ok;

  test("takes names, how names begin, and alternative names", () => {
    const long = "enx001122334455-by-its-long-name";
    expect(
      ["eth0", "a+b", "eth*", "e*", "veth_1.*", long].filter((text) => !isTaken(text)),
    ).toEqual([]);
  });

  test("refuses what would match all, or means something else", () => {
    const wrong = ["*", "eth**", "e*h0", "eth+", "-i", "a/b", "a b", "0123456789abcde*"];
    expect(wrong.filter(isTaken)).toEqual([]);
  });

  test("matches", () => {
    expect(["eth0", "eth", "et", "veth0"].map((name) => patternMatches("eth*", name))).toEqual([
      ...[true, true, false, false],
    ]);
    expect([patternMatches("eth0", "eth0"), patternMatches("eth0", "eth01")]).toEqual([
      true,
      false,
    ]);
  });
});
