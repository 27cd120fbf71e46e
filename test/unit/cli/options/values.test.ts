import { describe, expect, test } from "bun:test";
import { formatMessage } from "@optique/core/message";
import { networkSourceValue } from "../../../../src/cli/network-lists.ts";
import {
  durationValue,
  interfaceValue,
  listValue,
  markValue,
  maskedMarkValue,
  numberValue,
  portRangeValue,
  portValue,
  schemedEndpointValue,
  targetValue,
  timeoutValue,
  type Value,
  wordValue,
  workersValue,
} from "../../../../src/cli/options/values.ts";
import { workerCount } from "../../../../src/control/threads.ts";

/** What the parser of an option makes of a text, formatted again, or its error. */
function through<T>(value: Value<T>, input: string): string {
  const result = value.parse(input);
  return result.success ? value.format(result.value) : formatMessage(result.error);
}

const cases: [name: string, value: Value<unknown>, input: string, output: string][] = [
  ["network", networkSourceValue(), "10.0.0.0/8", "10.0.0.0/8"],
  ["file of networks", networkSourceValue(), "@list", "@list"],
  ["duration", durationValue(), "60s", "1m"],
  ["interface", interfaceValue(), "eth0", "eth0"],
  ["mark", markValue(), "255", "0xff"],
  ["masked mark", maskedMarkValue(), "1/0xff", "0x1/0xff"],
  ["timeout", timeoutValue(), "90s", "90s"],
  ["timeout", timeoutValue(), "0s", "0s"],
  ["workers", workersValue(), "3", "3"],
  ["number", numberValue("N", 1, 10), "10", "10"],
  ["port range", portRangeValue(), "1-2", "1-2"],
  ["port", portValue(), "80", "80"],
  ["endpoint", schemedEndpointValue(), "tcp://[0::1]:80", "tcp://[::1]:80"],
  ["target", targetValue(), "udp://example.com:53", "example.com:53"],
  ["word", wordValue("a|b", ["a", "b"]), "b", "b"],
  ["list", listValue(portRangeValue()), "80,90-91", "80,90-91"],
];

describe.each(cases)("the value of a %s", (_, value, input, output) => {
  test("is parsed and formatted", () => expect(through(value, input)).toBe(output));

  test("has a placeholder that it would accept", () => {
    expect(value.parse(value.format(value.placeholder)).success).toBe(true);
  });

  test("is refused in the parser's own words, without a second pair of quotes", () => {
    for (const bad of ["", "$(id)", "a\nb"]) {
      const result = value.parse(bad);
      const error = result.success ? "" : formatMessage(result.error);
      expect(error).toStartWith(JSON.stringify(bad));
      expect(error).toContain("give ");
      expect(error).not.toContain("\n");
    }
  });
});

describe("numberValue", () => {
  test("takes plain decimal numbers within its bounds", () => {
    for (const bad of ["0", "11", "1.0", "1e0", "01", "0x1", " 1", "-1"]) {
      expect(through(numberValue("N", 1, 10), bad)).toContain("give a number from 1 to 10");
    }
  });
});

describe("workersValue", () => {
  test("auto is at least one, and at most as many as there may be", () => {
    expect(through(workersValue(), "auto")).toBe("auto");
    expect(workerCount("auto")).toBeWithin(1, 65);
    expect(through(workersValue(), "all")).toContain('a number from 1 to 64, or "auto"');
  });
});

describe("timeoutValue", () => {
  test("0s is longer than any other", () => {
    const never = timeoutValue().parse("0s");
    expect(never.success && never.value > 0x7fffffff).toBe(true);
  });
});

describe("markValue", () => {
  test("takes no mask: a socket's mark is one number", () => {
    expect(through(markValue(), "1/1")).toContain("give a number up to 0xffffffff");
  });
});

describe("listValue", () => {
  test("refuses an empty entry", () => {
    for (const bad of ["80,", ",80", "80,,90"]) {
      expect(through(listValue(portRangeValue()), bad)).toStartWith('"" is not a port');
    }
  });
});

describe("wordValue", () => {
  test("offers its words to completion", () => {
    const value = wordValue("DIALECT", ["iptables", "nft", "json"]);
    const texts = (prefix: string) =>
      [...(value.suggest?.(prefix) ?? [])].map((one) => (one.kind === "literal" ? one.text : ""));
    expect(texts("")).toEqual(["iptables", "nft", "json"]);
    expect(texts("n")).toEqual(["nft"]);
  });
});
