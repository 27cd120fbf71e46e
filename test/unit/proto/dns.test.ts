import { describe, expect, test } from "bun:test";
import { type Answer, decode, encode } from "dns-packet";
import fc from "fast-check";
import { formatAddress } from "../../../src/net/address.ts";
import { encodeQuestion, isDomainName, type Question, readReply } from "../../../src/proto/dns.ts";

const question: Question = { id: 7, name: "www.example.test", family: 4 };

/** A well-made answer to the question. */
function message(answers: readonly Answer[], more: Record<string, unknown> = {}): Uint8Array {
  return encode({
    type: "response",
    id: 7,
    flags: 0,
    questions: [{ type: "A", name: "WWW.example.test", class: "IN" }],
    answers: [...answers],
    ...more,
  });
}

const a = (name: string, data: string, ttl = 60): Answer => ({ type: "A", name, data, ttl });
const cname = (name: string, data: string, ttl = 60): Answer => ({
  type: "CNAME",
  name,
  data,
  ttl,
});

/** The reply with its addresses as text. */
function read(bytes: Uint8Array) {
  const reply = readReply(bytes, question);
  if (reply?.kind !== "found") return reply;
  return `${reply.addresses.map(formatAddress).join(" ")} for ${reply.ttlSeconds} s`;
}

test("a question asks for one family, with recursion", () => {
  const asked = decode(Buffer.from(encodeQuestion({ ...question, family: 6 })));
  expect(asked).toMatchObject({ id: 7, type: "query", flag_rd: true });
  expect(asked.questions).toMatchObject([{ name: "www.example.test", type: "AAAA", class: "IN" }]);
});

describe("an answer", () => {
  test("has the addresses of the name and of its aliases, and the least time to live", () => {
    const { name } = question;
    expect(read(message([a(name, "192.0.2.1"), a(name, "192.0.2.2", 30)]))).toBe(
      "192.0.2.1 192.0.2.2 for 30 s",
    );
    // In any order.
    const chain = [a("c.test", "192.0.2.3"), cname("b.test", "c.test", 9), cname(name, "b.test")];
    expect(read(message(chain))).toBe("192.0.2.3 for 9 s");
    expect(read(message([a("other.test", "192.0.2.1")]))).toEqual({ kind: "absent" });
    expect(read(message([]))).toEqual({ kind: "absent" });
  });

  test("has bounds", () => {
    const { name } = question;
    const many = Array.from({ length: 500 }, (_, i) => a(name, `10.0.${i >> 8}.${i & 255}`));
    const reply = readReply(message(many), question);
    expect(reply?.kind === "found" && reply.addresses.length).toBe(64);
    const chain = Array.from({ length: 50 }, (_, i) => cname(`n${i}.test`, `n${i + 1}.test`));
    const end = a("n50.test", "192.0.2.1");
    expect(read(message([cname(name, "n0.test"), ...chain, end]))).toEqual({ kind: "absent" });
    const loop = [cname(name, "b.test"), cname("b.test", name)];
    expect(read(message(loop))).toEqual({ kind: "absent" });
    expect(read(message([a(name, "192.0.2.1", 4_000_000_000)]))).toBe("192.0.2.1 for 0 s");
    expect(read(message([a(name, "192.0.2.1", 2 ** 31 - 1)]))).toBe("192.0.2.1 for 604800 s");
  });

  test("gives no address that no host can have", () => {
    const bad = ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1"];
    const { name } = question;
    expect(read(message(bad.map((each) => a(name, each))))).toEqual({ kind: "absent" });
    const six: Question = { ...question, family: 6 };
    for (const data of ["::", "ff02::1"]) {
      const bytes = message([{ type: "AAAA", name, data, ttl: 1 }], {
        questions: [{ type: "AAAA", name, class: "IN" }],
      });
      expect(readReply(bytes, six)).toEqual({ kind: "absent" });
    }
  });

  test("that is none to this question does not count", () => {
    const { name } = question;
    const good = [a(name, "192.0.2.1")];
    expect(read(message(good, { id: 8 }))).toBeUndefined();
    expect(read(message(good, { type: "query" }))).toBeUndefined();
    expect(read(message(good, { questions: [] }))).toBeUndefined();
    const other = [{ type: "A", name: "evil.test", class: "IN" }];
    expect(read(message(good, { questions: other }))).toBeUndefined();
    const otherType = [{ type: "AAAA", name, class: "IN" }];
    expect(read(message(good, { questions: otherType }))).toBeUndefined();
  });

  test("may say that there is none, that it is cut off, that the server does not know", () => {
    expect(read(message([], { flags: 3 }))).toEqual({ kind: "absent" });
    expect(read(message([], { flags: 1 << 9 }))).toEqual({ kind: "truncated" });
    expect(read(message([], { flags: 5 }))).toEqual({ kind: "failed", reason: "REFUSED" });
    expect(read(message([], { flags: 2 }))).toEqual({ kind: "failed", reason: "SERVFAIL" });
  });

  test("may be any bytes", () => {
    const base = message([a(question.name, "192.0.2.1"), cname("x.test", "y.test")]);
    const change = fc.tuple(fc.nat(base.length - 1), fc.nat(255));
    fc.assert(
      fc.property(fc.array(change, { maxLength: 12 }), fc.nat(base.length), (changes, length) => {
        const bytes = base.slice();
        for (const [at, value] of changes) bytes[at] = value;
        for (const each of [bytes, bytes.subarray(0, length)]) {
          const reply = readReply(each, question);
          if (reply?.kind === "found") expect(reply.ttlSeconds).toBeGreaterThanOrEqual(0);
        }
      }),
      { numRuns: 300 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
        readReply(bytes, question);
      }),
    );
  });
});

test.each([
  ["www.example.test", true],
  ["localhost", true],
  ["a.", true],
  [`${"a".repeat(63)}.test`, true],
  [`${"a".repeat(64)}.test`, false],
  ["a..b", false],
  ["", false],
  ["a b", false],
  ["x.".repeat(127), false],
])("%j is a domain name: %p", (name, expected) => {
  expect(isDomainName(name)).toBe(expected);
});
