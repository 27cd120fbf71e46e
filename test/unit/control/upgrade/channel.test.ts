/** Both ends of an upgrade's channel in one process, and its packets by themselves. */

import { afterEach, describe, expect, test } from "bun:test";
import { fstatSync } from "node:fs";
import fc from "fast-check";
import { SO_SNDBUF, SOL_SOCKET } from "../../../../ffi/constants.ts";
import { EAGAIN, EINTR, ENOBUFS, ENOMEM, EPERM, ETOOMANYREFS } from "../../../../ffi/errno.ts";
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

  test("a packet that the send buffer has no room for is cut until it has", async () => {
    const [ours, theirs] = channelEnds();
    expect(sys.setsockopt(ours, SOL_SOCKET, SO_SNDBUF, 4_608)).toBe(0);
    const [a, b] = [end(ours), end(theirs)];
    const file = sys.eventfd(0, 0);
    closers.push(() => void sys.close(file));
    const text = "0123456789".repeat(10_000);
    let done = 0;
    a.channel.send({ text }, [file], () => done++);
    await eventually("the message", () => done === 1);
    expect(b.got).toEqual([[{ text }, [expect.any(Number)]]]);
    for (const fd of b.got[0]?.[1] ?? []) sys.close(fd);
    expect([a.gone, b.gone]).toEqual([[], []]);
  });

  test("an error that passes is told once, and the message arrives", async () => {
    const [ours, theirs] = channelEnds();
    const b = end(theirs);
    const errors = [ENOBUFS, ENOMEM, ENOBUFS, ETOOMANYREFS, EAGAIN, EINTR];
    const waits: string[] = [];
    const owner = {
      message: () => {},
      gone: (reason: string) => void waits.push(reason),
      waits: (reason: string) => void waits.push(reason),
    };
    const channel = new Channel(ours, owner, (...args) => {
      const error = errors.shift();
      return error === undefined ? sendUnix(...args) : -error;
    });
    closers.push(() => channel.close());
    channel.send("at last");
    await eventually("the message", () => b.got.length === 1);
    expect(waits.map((line) => line.replace(/.*\((E\w+)\)$/, "$1"))).toEqual([
      "ENOBUFS",
      "ENOMEM",
      "ETOOMANYREFS",
    ]);
  });

  test("an error that stays is the end, after what the peer had sent", async () => {
    const [ours, theirs] = channelEnds();
    const events: unknown[] = [];
    const owner = {
      message: (value: unknown) => void events.push(value),
      gone: (reason: string) => void events.push(reason),
    };
    const channel = new Channel(ours, owner, () => -EPERM);
    closers.push(
      () => channel.close(),
      () => void sys.close(theirs),
    );
    channel.send("never");
    const [last] = packetsOf("its last word", [], { bytes: 100, descriptors: 1 });
    sendUnix(theirs, last?.bytes ?? new Uint8Array());
    await eventually("the end", () => events.length === 2);
    const why = "nothing can be sent to it: Operation not permitted (EPERM)";
    expect(events).toEqual(["its last word", why]);
  });

  test("what waits at the end is sent before it", async () => {
    const [ours, theirs] = channelEnds();
    const a = end(ours);
    closers.push(() => void sys.close(theirs));
    for (const text of ["one", "two", "three"]) a.channel.send(text);
    a.channel.flush();
    a.channel.close();
    const b = end(theirs);
    await eventually("its end", () => b.gone.length > 0);
    expect(b.got.map(([value]) => value)).toEqual(["one", "two", "three"]);
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
