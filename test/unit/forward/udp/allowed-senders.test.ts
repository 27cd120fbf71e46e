import { expect, test } from "bun:test";
import fc from "fast-check";
import { KEY_WORDS, writeEnds } from "../../../../src/engine/flow-key.ts";
import { AllowedSenders } from "../../../../src/forward/udp/allowed-senders.ts";
import { cidrContains, networkOf } from "../../../../src/net/cidr.ts";

const address = fc.constantFrom(4, 6).chain((family) => {
  const length = family === 4 ? 4 : 16;
  // Few different bytes, so that many addresses share their beginnings.
  const bytes = fc.array(fc.constantFrom(0, 1, 0x80, 0xff), {
    minLength: length,
    maxLength: length,
  });
  return bytes.map((all) => ({ family: family as 4 | 6, bytes: Uint8Array.from(all) }));
});
const network = fc
  .tuple(address, fc.nat(128))
  .map(([one, prefix]) => networkOf(one, one.family === 4 ? prefix % 33 : prefix));

/** As a dual-stack socket sees it, an IPv4-mapped address is an IPv4 one. */
const isMapped = (bytes: Uint8Array) =>
  bytes.length === 16 && bytes.subarray(0, 12).join() === "0,0,0,0,0,0,0,0,0,0,255,255";

test("a sender is allowed whose address is in one of the networks", () => {
  fc.assert(
    fc.property(fc.array(network, { minLength: 1, maxLength: 4 }), address, (networks, one) => {
      fc.pre(!isMapped(one.bytes));
      const end = { address: one.bytes, port: 1, scopeId: 0 };
      const key = new Uint32Array(KEY_WORDS);
      writeEnds(end, end, key);
      const wanted = networks.some((each) => cidrContains(each, one));
      expect(new AllowedSenders(networks).has(key)).toBe(wanted);
    }),
    { numRuns: 1000 },
  );
});

test("without networks everyone is", () => {
  expect(new AllowedSenders([]).has(new Uint32Array(KEY_WORDS))).toBe(true);
});
