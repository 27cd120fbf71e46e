/** Control messages: as the kernel takes and tells them, and as bytes of any kind. */

import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { encodePacketInfo, packetInfoBytesMax, ReceivedControls } from "../../../ffi/cmsg.ts";
import {
  AF_INET,
  AF_INET6,
  IP_ORIGDSTADDR,
  IP_RECVORIGDSTADDR,
  IP_RECVTTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_ORIGDSTADDR,
  IPV6_RECVHOPLIMIT,
  IPV6_RECVORIGDSTADDR,
} from "../../../ffi/constants.ts";
import { EAGAIN } from "../../../ffi/errno.ts";
import { cmsghdr } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { makeEnvelope, SendBatch } from "../../../ffi/send-batch.ts";
import { decodeSockaddr, encodeSockaddr, type SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import { bindSocket, localName } from "../../../src/engine/sockets.ts";
import { setHopLimit } from "../../../src/engine/transparent.ts";

const open: number[] = [];
afterEach(() => {
  for (const fd of open.splice(0)) sys.close(fd);
});

interface Bound {
  readonly fd: number;
  readonly local: SocketAddress;
}

/** A UDP socket that tells original destinations, bound to `address`, port 0. */
function udp(...address: number[]): Bound {
  const bytes = Uint8Array.from(address);
  const at = { address: bytes, port: 0, scopeId: 0 };
  const fd = bindSocket({ protocol: "udp", transparent: false }, at);
  open.push(fd);
  return { fd, local: localName(fd) };
}

const any6 = new Array(16).fill(0);
const loopback4 = Uint8Array.of(127, 0, 0, 1);
const loopback6 = Uint8Array.from([...any6.slice(1), 1]);

const payload = allocate(4);
const arrivals = new ReceiveBatch(new PayloadSlots(2), true);
const sending = new SendBatch(1);

function told(words: Uint32Array, at: number): SocketAddress | undefined {
  return decodeSockaddr(new DataView(words.buffer, words.byteOffset + at * 4), 0);
}

/** Sends to `to`, from `source` if one is given; what the receiver is told of it. */
function exchange(
  from: Bound,
  receiver: Bound,
  to: SocketAddress,
  domain: number,
  source?: Uint8Array,
) {
  payload.bytes.set(new TextEncoder().encode("ping"));
  sending.begin(makeEnvelope(domain, to, source), false);
  sending.add(payload.address, 4, 0);
  sending.send(from.fd);
  expect([sending.sent, sending.errno]).toEqual([1, 0]);
  expect(arrivals.receive(receiver.fd)).toBe(1);
  const bytes = arrivals.slots.buffer.bytes.subarray(0, arrivals.length(0));
  expect(new TextDecoder().decode(bytes)).toBe("ping");
  const at = arrivals.destinationAt(0);
  return {
    sender: told(arrivals.names, arrivals.nameAt(0)),
    destination: at < 0 ? undefined : told(arrivals.controls, at),
  };
}

describe("a datagram", () => {
  test("IPv4: tells sender and destination, and leaves from the source that is named", () => {
    const receiver = udp(0, 0, 0, 0);
    const sender = udp(0, 0, 0, 0);
    const to = { ...receiver.local, address: Uint8Array.of(127, 0, 0, 5) };
    const named = exchange(sender, receiver, to, AF_INET, Uint8Array.of(127, 0, 0, 9));
    expect(named.destination).toEqual(to);
    expect(named.sender).toEqual({ ...sender.local, address: Uint8Array.of(127, 0, 0, 9) });
    expect(exchange(sender, receiver, to, AF_INET).sender?.address).toEqual(loopback4);
  });

  test("IPv6, and IPv4 on a dual-stack socket in its own form", () => {
    const receiver = udp(...any6);
    const sender = udp(...any6);
    const six = { ...receiver.local, address: loopback6 };
    expect(exchange(sender, receiver, six, AF_INET6, loopback6)).toEqual({
      sender: { ...sender.local, address: loopback6 },
      destination: six,
    });
    const four = { ...receiver.local, address: loopback4 };
    const named = exchange(sender, receiver, four, AF_INET6, Uint8Array.of(127, 0, 0, 3));
    expect(named.destination).toEqual(four);
    expect(named.sender?.address).toEqual(Uint8Array.of(127, 0, 0, 3));
  });

  test("an answer leaves from the address that was asked, in both families", () => {
    const server = udp(...any6);
    for (const [client, asked] of [
      [udp(127, 0, 0, 1), Uint8Array.of(127, 5, 5, 5)],
      [udp(...loopback6), loopback6],
    ] as const) {
      const to = { ...server.local, address: asked };
      const domain = asked.length === 4 ? AF_INET : AF_INET6;
      const { sender, destination } = exchange(client, server, to, domain);
      if (sender === undefined || destination === undefined) throw new Error("no addresses");
      const answer = exchange(server, client, sender, AF_INET6, destination.address);
      expect(answer.sender).toEqual(to);
    }
  });

  test("tells its hop limit beside its destination, of either family and none once unasked", () => {
    const dual = udp(...any6);
    for (const [address, receiver] of [
      [loopback4, udp(127, 0, 0, 1)],
      [loopback4, dual],
      [loopback6, dual],
    ] as const) {
      const isV4 = address.length === 4;
      const domain = isV4 ? AF_INET : AF_INET6;
      const sender = udp(...address);
      const to = { ...receiver.local, address };
      for (const hops of [1, 64, 255]) {
        setHopLimit(sender.fd, domain, hops);
        expect(exchange(sender, receiver, to, domain).destination).toEqual(to);
        expect(arrivals.hopLimit(0)).toBe(hops);
      }
      const silent = udp(...address);
      const options = isV4
        ? [IP_RECVTTL, IP_RECVORIGDSTADDR]
        : [IPV6_RECVHOPLIMIT, IPV6_RECVORIGDSTADDR];
      for (const option of options) {
        sys.setsockopt(silent.fd, isV4 ? IPPROTO_IP : IPPROTO_IPV6, option, 0);
      }
      expect(exchange(sender, silent, silent.local, domain).destination).toBeUndefined();
      expect([arrivals.hopLimit(0), arrivals.destinationAt(0)]).toEqual([0, -1]);
    }
  });

  test("keeps its buffers under forced collections", () => {
    const receiver = udp(127, 0, 0, 1);
    const sender = udp(127, 0, 0, 1);
    for (let round = 0; round < 50; round++) {
      Bun.gc(true);
      const named = exchange(sender, receiver, receiver.local, AF_INET, loopback4);
      expect(named).toEqual({ sender: sender.local, destination: receiver.local });
    }
    expect(arrivals.receive(receiver.fd)).toBe(-EAGAIN);
  });
});

describe("control messages", () => {
  const address = fc.oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    // Not an IPv4-mapped one: that is told as the IPv4 address that it is.
    fc.uint8Array({ minLength: 16, maxLength: 16 }).filter((bytes) => bytes[0] !== 0),
  );

  /** Control messages as the kernel writes them, with others before the one that counts. */
  function control(before: Uint8Array, bytes: Uint8Array, port: number): DataView {
    const aligned = (before.length + 7) & ~7;
    const view = new DataView(new ArrayBuffer(2 * cmsghdr.size + aligned + 32));
    const header = (at: number, length: number, level: number, type: number) => {
      view.setUint32(at + cmsghdr.cmsg_len, cmsghdr.size + length, true);
      view.setInt32(at + cmsghdr.cmsg_level, level, true);
      view.setInt32(at + cmsghdr.cmsg_type, type, true);
    };
    header(0, before.length, IPPROTO_IP, 8);
    new Uint8Array(view.buffer).set(before, cmsghdr.size);
    const at = cmsghdr.size + aligned;
    const isV4 = bytes.length === 4;
    const length = encodeSockaddr(view, at + cmsghdr.size, bytes, port);
    header(at, length, isV4 ? IPPROTO_IP : IPPROTO_IPV6, isV4 ? IP_ORIGDSTADDR : IPV6_ORIGDSTADDR);
    return view;
  }

  test("the original destination is found behind others, and not past the end", () => {
    const others = fc.uint8Array({ maxLength: 40 });
    fc.assert(
      fc.property(others, address, fc.nat(65535), (before, bytes, port) => {
        const view = control(before, bytes, port);
        const words = new Uint32Array(view.buffer);
        const read = new ReceivedControls(2);
        const find = (length: number) => {
          read.read(1, words, 0, length);
          return read.destinations[1] as number;
        };
        expect(told(words, find(view.byteLength))).toMatchObject({
          address: new Uint8Array(bytes),
          port,
        });
        const aligned = (before.length + 7) & ~7;
        expect(find(cmsghdr.size + aligned)).toBe(-1);
        expect(find(view.byteLength - 32)).toBe(-1);
      }),
    );
  });

  test("nothing is read beyond their length, whatever lies there", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(3), (bytes, from) => {
        const words = new Uint32Array(64);
        new Uint8Array(words.buffer).set(bytes, from * 4);
        const found = new ReceivedControls(1);
        found.read(0, words, from, bytes.length);
        const at = found.destinations[0] as number;
        expect(at === -1 || at * 4 + 16 <= from * 4 + bytes.length).toBe(true);
      }),
    );
  });

  test("a packet info is as long as it says, within its bound", () => {
    fc.assert(
      fc.property(address, fc.nat(1000), (source, scopeId) => {
        const view = new DataView(new ArrayBuffer(packetInfoBytesMax));
        const length = encodePacketInfo(view, source, scopeId);
        expect(length).toBeLessThanOrEqual(packetInfoBytesMax);
        expect(length - view.getUint32(0, true)).toBeOneOf([0, 4]);
        const text = Buffer.from(view.buffer).toString("hex");
        expect(text).toContain(Buffer.from(source).toString("hex"));
      }),
    );
  });
});
