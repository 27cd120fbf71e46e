import { describe, expect, test } from "bun:test";
import { parseInterfaceName } from "../../../src/net/interface.ts";

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
