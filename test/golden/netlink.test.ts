/**
 * The messages of `ffi/netlink/` are those of ip(8), nft(8) and conntrack(8), byte for byte but for
 * sequence numbers: those kept in `netlink/messages.golden`, and those that the programs of this
 * machine send now. Where bytes may differ, what they mean is the same, by our decoders.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import { NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST } from "../../ffi/netlink/constants.ts";
import { type Message, parseMessages } from "../../ffi/netlink/wire.ts";
import { canUnshare } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import type { Case } from "./netlink/case.ts";
import { cases } from "./netlink/cases.ts";
import { type Recording, readGolden, record } from "./netlink/record.ts";

let golden: Recording;
beforeAll(async () => {
  golden = await readGolden();
});

/** The socket sets these, or the program does as it likes. */
const ADDED_FLAGS = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO;

const isProbe = (body: Uint8Array) => body.every((byte) => byte === 0);

/** The messages of a recording that are of the types a case expects, in their order. */
function sentFor({ command, messages }: Case, recording: Recording) {
  const types = new Set(messages.map(({ type }) => type));
  const lines = recording.get(command) ?? [];
  // A dump of everything looks like the probes that the programs begin with.
  const probes = messages.some(({ body }) => isProbe(body));
  return lines
    .flatMap((line) => parseMessages(Uint8Array.fromHex(line)))
    .filter(({ type, body }) => types.has(type) && (probes || !isProbe(body)));
}

function describeMessage({ type, flags, body }: Pick<Message, "type" | "flags" | "body">): string {
  return `type ${type} flags ${(flags & ~ADDED_FLAGS).toString(16)} body ${body.toHex()}`;
}

function expectSame(each: Case, recording: Recording): void {
  const theirs = sentFor(each, recording);
  if (each.sameAs === undefined) {
    expect(each.messages.map(describeMessage)).toEqual(theirs.map(describeMessage));
  } else {
    const { decode } = each.sameAs;
    expect(each.messages.map(({ body }) => decode(body))).toEqual(
      theirs.map(({ body }) => decode(body)),
    );
  }
}

describe("kept messages", () => {
  for (const each of cases) {
    const reason = each.sameAs === undefined ? "" : ` (in meaning: ${each.sameAs.because})`;
    test(each.command + reason, () => expectSame(each, golden));
  }
});

if (canUnshare) {
  testWith(["conntrack", "gcc", "ip", "nft"])(
    "what the programs of this machine send",
    async () => {
      const recording = await record();
      for (const each of cases) expectSame(each, recording);
    },
  );
} else {
  test.skip("what the programs of this machine send [missing: network namespaces]", () => {});
}
