/** Both ends of an upgrade's channel in one process, and its packets by themselves. */

import { afterEach, describe, expect, test } from "bun:test";
import { fstatSync } from "node:fs";
import fc from "fast-check";
import * as sys from "../../../../ffi/sys.ts";
import { sendUnix } from "../../../../ffi/unix-socket.ts";
import { Channel, channelEnds } from "../../../../src/control/upgrade/channel.ts";
import { Assembler, packetsOf } from "../../../../src/control/upgrade/packets.ts";
import { eventually } from "../../../helpers/tproxy.ts";

describe("packets", () => {
  const bounds = { bytes: 8, descriptors: 3 };

  test("any message comes out as it went in, with its descriptors in order", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.array(fc.nat(), { maxLength: 20 }), (value, descriptors) => {
        const assembler = new Assembler();
        const packets = packetsOf(value, descriptors, bounds);
        for (const packet of packets) {
          expect(packet.bytes.length).toBeLessThanOrEqual(bounds.bytes);
          expect(packet.descriptors.length).toBeLessThanOrEqual(bounds.descriptors);
        }
        const arrived = packets.map((packet) => assembler.take(packet));
        expect(arrived.pop()).toEqual({
          kind: "message",
          message: { value: JSON.parse(JSON.stringify(value)), descriptors },
        });
        expect(arrived.every(({ kind }) => kind === "part")).toBe(true);
        expect(assembler.unclaimed).toEqual([]);
      }),
    );
  });

  test("what is none of ours is a fault, and its descriptors are not lost", () => {
    const assembler = new Assembler();
    const bytes = (...all: number[]) => ({ bytes: Uint8Array.from(all), descriptors: [7] });
    expect(assembler.take(bytes(9))).toMatchObject({ kind: "fault" });
    expect(assembler.take(bytes(2, 0x7b))).toMatchObject({ kind: "fault" });
    expect(assembler.take(bytes())).toMatchObject({ kind: "fault" });
    expect(assembler.unclaimed).toEqual([7, 7, 7]);
  });
});

describe("a channel", () => {
  const closers: (() => void)[] = [];
  afterEach(() => {
    for (const close of closers.splice(0)) close();
  });

  function end(fd: number) {
    const got: [value: unknown, descriptors: readonly number[]][] = [];
    const gone: string[] = [];
    const channel = new Channel(fd, {
      message: (value, descriptors) => void got.push([value, descriptors]),
      gone: (reason) => void gone.push(reason),
    });
    closers.push(() => channel.close());
    return { channel, got, gone };
  }

  function pair() {
    const [a, b] = channelEnds();
    return [end(a), end(b)] as const;
  }

  test("carries 1,000 descriptors and a megabyte, both ways at once", async () => {
    const [a, b] = pair();
    const files = Array.from({ length: 4 }, () => sys.eventfd(0, 0));
    closers.push(() => files.forEach((fd) => void sys.close(fd)));
    const descriptors = Array.from({ length: 1_000 }, (_, i) => files[i % 4] as number);
    let done = 0;
    a.channel.send({ text: "x".repeat(1_000_000) }, descriptors, () => done++);
    b.channel.send("small", [], () => done++);
    await eventually("both messages", () => done === 2);
    expect(a.got).toEqual([["small", []]]);
    const [[value, received] = [undefined, []]] = b.got;
    expect(value).toEqual({ text: "x".repeat(1_000_000) });
    const inodes = (fds: readonly number[]) => fds.map((fd) => fstatSync(fd).ino);
    expect(inodes(received)).toEqual(inodes(descriptors));
    for (const fd of received) sys.close(fd);
  });

  test("the end of the peer is told once, after what it had sent", async () => {
    const [a, b] = pair();
    b.channel.send("unread", []);
    a.channel.send("last words", [], () => {});
    a.channel.close();
    await eventually("its end", () => b.gone.length > 0);
    expect([b.got, b.gone]).toEqual([[["last words", []]], ["it has ended"]]);
    b.channel.send("into the void");
    expect(a.gone).toEqual([]);
  });

  test("a peer that is none of ours is let go", async () => {
    const [ours, theirs] = channelEnds();
    const a = end(ours);
    closers.push(() => void sys.close(theirs));
    sendUnix(theirs, new TextEncoder().encode("hello"));
    await eventually("the fault", () => a.gone.length > 0);
    expect(a.gone).toEqual(["it has sent an unknown packet"]);
  });
});
