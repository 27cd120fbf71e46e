import { expect, test } from "bun:test";
import fc from "fast-check";
import { RequestParser, type RequestState } from "../../../../src/control/admin/request-parser.ts";

const bounds = { headBytesMax: 200, bodyBytesMax: 50 };
const bytes = (text: string) => new TextEncoder().encode(text);

/** Feeds the text in pieces that end at the `cuts`; the first state that is not partial. */
function read(text: string, cuts: readonly number[] = []): RequestState {
  const parser = new RequestParser(bounds);
  const all = bytes(text);
  const ends = [...new Set(cuts.map((cut) => cut % (all.length + 1)))].sort((a, b) => a - b);
  let from = 0;
  let state: RequestState = { kind: "partial", wantsContinue: false };
  for (const end of [...ends, all.length]) {
    state = parser.push(all.subarray(from, end));
    from = end;
    if (state.kind !== "partial") return state;
  }
  return state;
}

const post =
  "POST /v1/stop?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello";

test("a request is the same however it is cut, and what follows is ignored", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(200), { maxLength: 20 }), fc.string(), (cuts, rest) => {
      const state = read(post + rest, cuts);
      if (state.kind !== "request") throw new Error(JSON.stringify(state));
      const { method, target, headers, body } = state.request;
      expect([method, target, new TextDecoder().decode(body)]).toEqual([
        ...["POST", "/v1/stop?x=1", "hello"],
      ]);
      expect([...headers]).toEqual([
        ["host", "a"],
        ["content-length", "5"],
        ["x-a", "1, 2"],
      ]);
    }),
  );
});

test.each([
  ["GET / HTTP/2.0\r\n\r\n", 505],
  ["GET  / HTTP/1.1\r\n\r\n", 400],
  ["get / HTTP/1.1\r\n\r\n", 400],
  ["\x16\x03\x01\x00\xa5\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\n\r\n", 400],
  ["GET / HTTP/1.1\r\nno colon\r\n\r\n", 400],
  ["GET / HTTP/1.1\r\nA: 1\r\n folded: 1\r\n\r\n", 400],
  ["GET / HTTP/1.1\r\nA: \x01\r\n\r\n", 400],
  ["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411],
  ["POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", 400],
  ["POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400],
  ["POST / HTTP/1.1\r\nContent-Length: 51\r\n\r\n", 413],
  [`GET / HTTP/1.1\r\nA: ${"x".repeat(300)}`, 431],
] as const)("%j is answered with %d", (text, status) => {
  expect(read(text)).toMatchObject({ kind: "fault", fault: { status } });
  expect(read(text, [1, 2, 3, 20, 40])).toMatchObject({ kind: "fault", fault: { status } });
});

test("any bytes are a request, a fault or too few", () => {
  fc.assert(
    fc.property(fc.string(), fc.array(fc.nat(500)), (text, cuts) => {
      expect(["partial", "request", "fault"]).toContain(read(text, cuts).kind);
    }),
  );
});

test("a client that asks is told once to go on", () => {
  const parser = new RequestParser(bounds);
  const head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  expect(parser.push(bytes(head))).toEqual({ kind: "partial", wantsContinue: true });
  expect(parser.push(bytes("a"))).toEqual({ kind: "partial", wantsContinue: false });
  expect(parser.push(bytes("b")).kind).toBe("request");
});
