import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeOriginalDestination, encodePacketInfo, packetInfoBytesMax } from "../../ffi/cmsg.ts";
import {
  AF_INET,
  AF_INET6,
  IP_ORIGDSTADDR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_ORIGDSTADDR,
} from "../../ffi/constants.ts";
import { EAGAIN } from "../../ffi/errno.ts";
import { cmsghdr } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { Message } from "../../ffi/message.ts";
import { encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import { bindSocket, localName } from "../../src/engine/sockets.ts";

const open: number[] = [];
afterEach(() => {
  for (const fd of open.splice(0)) sys.close(fd);
});

/** A UDP socket that tells original destinations, bound to `address`, port 0. */
function udp(...address: number[]): { fd: number; local: SocketAddress } {
  const bytes = Uint8Array.from(address);
  const at = { address: bytes, port: 0, scopeId: 0 };
  const fd = bindSocket({ protocol: "udp", transparent: false }, at);
  open.push(fd);
  return { fd, local: localName(fd) };
}

const any6 = new Array(16).fill(0);
const loopback4 = Uint8Array.of(127, 0, 0, 1);
const loopback6 = Uint8Array.from([...any6.slice(1), 1]);

describe("a message", () => {
  const message = new Message(allocate(1024));

  /** Sends "ping" to `to`, from `source` if one is given; what the receiver is told of it. */
  function exchange(
    from: { fd: number },
    to: { fd: number },
    destination: SocketAddress,
    domain: number,
    source?: Uint8Array,
  ) {
    message.payload.bytes.set(new TextEncoder().encode("ping"));
    message.prepareSend(domain, 4, destination, source);
    expect(sys.sendmsg(from.fd, message.address, 0)).toBe(4);
    message.payload.bytes.fill(0);
    message.prepareReceive();
    expect(sys.recvmsg(to.fd, message.address, 0)).toBe(4);
    expect(new TextDecoder().decode(message.payload.bytes.subarray(0, 4))).toBe("ping");
    return { sender: message.sender(), destination: message.originalDestination() };
  }

  test("IPv4: tells sender and destination, and leaves from the source that is named", () => {
    const receiver = udp(0, 0, 0, 0);
    const sender = udp(0, 0, 0, 0);
    const to = { ...receiver.local, address: Uint8Array.of(127, 0, 0, 5) };
    const told = exchange(sender, receiver, to, AF_INET, Uint8Array.of(127, 0, 0, 9));
    expect(told.destination).toEqual(to);
    expect(told.sender).toEqual({ ...sender.local, address: Uint8Array.of(127, 0, 0, 9) });
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
    const told = exchange(sender, receiver, four, AF_INET6, Uint8Array.of(127, 0, 0, 3));
    expect(told.destination).toEqual(four);
    expect(told.sender?.address).toEqual(Uint8Array.of(127, 0, 0, 3));
  });

  test("keeps its buffers under forced collections", () => {
    const receiver = udp(127, 0, 0, 1);
    const sender = udp(127, 0, 0, 1);
    for (let round = 0; round < 50; round++) {
      Bun.gc(true);
      const told = exchange(sender, receiver, receiver.local, AF_INET, loopback4);
      expect(told).toEqual({ sender: sender.local, destination: receiver.local });
    }
    message.prepareReceive();
    expect(sys.recvmsg(receiver.fd, message.address, 0)).toBe(-EAGAIN);
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
        expect(decodeOriginalDestination(view, view.byteLength)).toMatchObject({
          address: new Uint8Array(bytes),
          port,
        });
        const aligned = (before.length + 7) & ~7;
        expect(decodeOriginalDestination(view, cmsghdr.size + aligned)).toBeUndefined();
        expect(decodeOriginalDestination(view, view.byteLength - 32)).toBeUndefined();
      }),
    );
  });

  test("garbage is read to no harm, whatever length is claimed", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), fc.nat(300), (bytes, length) => {
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        decodeOriginalDestination(view, length);
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
