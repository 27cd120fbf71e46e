/** UDP_SEGMENT where the path does not take it: nothing is merged, split, cut short or missing. */

import { describe, expect } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { EAGAIN, EMSGSIZE, ENOBUFS } from "../../ffi/errno.ts";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";

const helper = `'${process.execPath}' '${join(import.meta.dir, "../helpers/segments.ts")}'`;

interface Sent {
  readonly sent: number;
  readonly sentBytes: number;
  readonly dropped: number;
  readonly errno: number;
  readonly isSegmentRefused: boolean;
  readonly received: number[];
}

/** Sends lists over a loopback of 1500 bytes, the helper under `launcher`. */
async function send(address: string, lists: number[][], launcher = ""): Promise<Sent[]> {
  const { status, stdout, stderr } = await inNamespace(`
    ip link set lo mtu 1500
    ${launcher} ${helper} '${address}' '${JSON.stringify(lists)}'
  `);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const testSegments = testWith(["ip"], { "network namespaces": canUnshare });
const testInjected = testWith(["ip", "strace"], { "network namespaces": canUnshare });

const of = (count: number, size: number): number[] => Array(count).fill(size);

describe.each([
  { family: "4", address: "127.0.0.1", fits: 1472 },
  { family: "6", address: "::1", fits: 1452 },
])("IPv$family", ({ address, fits }) => {
  testSegments("as large as the MTU they are joined, and larger ones sent one by one", async () => {
    const lists = [of(20, fits), [...of(20, fits), 7], of(9, fits + 1), [...of(9, 3000), 1]];
    const results = await send(address, lists);
    expect(results.map(({ received }) => received)).toEqual(lists);
    expect(results.map((each) => each.isSegmentRefused)).toEqual([false, false, true, true]);
  });

  testSegments("whatever sizes follow each other", async () => {
    const size = fc.constantFrom(0, 1, 100, 1200, 1200, fits, fits, fits + 1, 3000, 3000, 9000);
    const lists = fc.sample(fc.array(size, { minLength: 1, maxLength: 60 }), 60);
    const results = await send(address, lists);
    for (const [i, list] of lists.entries()) {
      expect(results[i]).toMatchObject({
        sent: list.length,
        sentBytes: list.reduce((sum, each) => sum + each, 0),
        dropped: 0,
        received: list,
      });
    }
  });
});

describe("what sendmmsg(2) may answer", () => {
  const inject = (name: string) =>
    `strace -f -qq -o /dev/null -e trace=sendmmsg -e inject=sendmmsg:error=${name}:when=2`;

  testInjected("EIO, where an interface cannot checksum: one by one", async () => {
    const list = [...of(20, 1000), 7];
    const [result] = await send("127.0.0.1", [list], inject("EIO"));
    expect(result).toMatchObject({ isSegmentRefused: true, dropped: 0, received: list });
  });

  testInjected(
    "EMSGSIZE of an earlier datagram, by ICMP: this one is sent all the same",
    async () => {
      const [result, next] = await send("127.0.0.1", [[5], of(3, 70_000)], inject("EMSGSIZE"));
      expect(result).toMatchObject({ sent: 1, dropped: 0, received: [5] });
      // One that is too large is so the second time, too.
      expect(next).toMatchObject({ sent: 0, dropped: 3, errno: EMSGSIZE });
    },
  );

  for (const [name, errno] of [
    ["EAGAIN", EAGAIN],
    ["ENOBUFS", ENOBUFS],
  ] as const) {
    testInjected(`${name}, a full queue: all that is left is dropped and counted`, async () => {
      const [result, next] = await send("127.0.0.1", [[5, 6, 7, 7], [8]], inject(name));
      expect(result).toMatchObject({ sent: 0, dropped: 4, errno, received: [] });
      expect(next).toMatchObject({ sent: 1, dropped: 0, received: [8] });
    });
  }
});
