import { describe, expect, test } from "bun:test";
import { isIP } from "node:net";
import fc from "fast-check";
import { formatAddress, formatBytes, parseAddress } from "../../../src/net/address.ts";

const bytes4 = fc.uint8Array({ minLength: 4, maxLength: 4 });
/** Like addresses of the world, most of them have runs of zeros. */
const bytes6 = fc
  .array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff })), {
    minLength: 8,
    maxLength: 8,
  })
  .map((groups) => Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff])));

function canonical(text: string): string | undefined {
  const result = parseAddress(text);
  return result.ok ? formatAddress(result.value) : undefined;
}

describe("parseAddress", () => {
  const accepted: [text: string, canonical: string][] = [
    ["8.8.8.8", "8.8.8.8"],
    ["0.0.0.0", "0.0.0.0"],
    ["255.255.255.255", "255.255.255.255"],
    ["::", "::"],
    ["::1", "::1"],
    ["2001:DB8:0:0:0:0:0:9", "2001:db8::9"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
    ["1:2:3:4:5:6:0:8", "1:2:3:4:5:6:0:8"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    ["::ffff:192.0.2.1", "::ffff:192.0.2.1"],
    ["::ffff:c000:201", "::ffff:192.0.2.1"],
    ["::1.2.3.4", "::102:304"],
    ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
  ];
  test.each(accepted)("%s is %s", (text, expected) => expect(canonical(text)).toBe(expected));

  const refused = [
    ...[
      "",
      "1",
      "1.2.3",
      "1.2.3.4.5",
      "010.1.1.1",
      "1.2.3.04",
      "0x7f.1",
      "0x7f.0.0.1",
      "256.1.1.1",
    ],
    ...["1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4\0", "+1.2.3.4", "1.2.3.4/32", "١.2.3.4"],
    ...[":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "::g", "[::1]"],
    ...["::01.2.3.4", "::1.2.3", "::1.2.3.4:5", "1:2:3:4:5:6:7:1.2.3.4", "::1\n", "fe80::1%eth0"],
    ...["fe80::1%", "localhost", "8.8.8.8%lo", "$(reboot)", "`id`", "1.1.1.1;id", "::ffff:0x1.2"],
  ];
  test.each(refused)("refuses %j", (text) => {
    const result = parseAddress(text);
    expect(result.ok ? formatAddress(result.value) : result.error).toContain(
      "is not an IP address: give IPv4 as four decimal numbers",
    );
  });

  test("takes a zone where one is allowed, and keeps it", () => {
    const result = parseAddress("FE80::1%eth0.5", { zone: true });
    expect(result.ok && result.value.zone).toBe("eth0.5");
    expect(result.ok && formatAddress(result.value)).toBe("fe80::1%eth0.5");
    for (const text of ["fe80::1%", "fe80::1%a b", "fe80::1%a/b", "fe80::1%a%b", "1.2.3.4%lo"]) {
      expect(parseAddress(text, { zone: true }).ok).toBe(false);
    }
  });

  test("accepts exactly what inet_pton(3) does", () => {
    const pieces = fc.array(
      fc.oneof(
        fc.constantFrom(":", "::", ".", "0", "00", "1.2.3.4", "255", "256", "ffff", "g", "%", " "),
        fc.stringMatching(/^[0-9a-fA-F]{1,5}$/),
      ),
      { maxLength: 17 },
    );
    const broken = fc
      .tuple(
        fc.oneof(bytes4, bytes6).map(formatBytes),
        fc.nat(),
        fc.constantFrom("", "0", ":", "."),
      )
      .map(([text, at, piece]) => {
        const cut = at % (text.length + 1);
        return text.slice(0, cut) + piece + text.slice(cut + (at % 2));
      });
    fc.assert(
      fc.property(
        fc.oneof(
          pieces.map((list) => list.join("")),
          broken,
        ),
        (text) => {
          fc.pre(!text.includes("%"));
          const result = parseAddress(text);
          expect(result.ok ? result.value.family : 0).toBe(isIP(text) as 0 | 4 | 6);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("formatBytes", () => {
  test("is read back to the same bytes", () => {
    fc.assert(
      fc.property(fc.oneof(bytes4, bytes6), (bytes) => {
        const result = parseAddress(formatBytes(bytes));
        expect(result.ok && result.value.bytes).toEqual(bytes);
      }),
    );
  });

  test("writes IPv6 as the URL standard's serializer does, which follows RFC 5952", () => {
    fc.assert(
      fc.property(bytes6, (bytes) => {
        const text = formatBytes(bytes);
        fc.pre(!text.includes("."));
        expect(new URL(`http://[${text}]`).hostname).toBe(`[${text}]`);
      }),
      { numRuns: 1000 },
    );
  });
});
