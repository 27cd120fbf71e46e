/** The codecs of socket addresses and messages: round trips of any value, and the kernel's own. */

import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  AF_INET,
  AF_INET6,
  IP_RECVORIGDSTADDR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVORIGDSTADDR,
  IPV6_V6ONLY,
  MSG_TRUNC,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
} from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import { sockaddr_in, sockaddr_in6 } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { Message } from "../../ffi/message.ts";
import { decodeSockaddr, encodeSockaddr, mapped } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import { boundSocket, localAddress, loopback } from "../helpers/sockets.ts";

const ipv4 = fc.uint8Array({ minLength: 4, maxLength: 4 });
const ipv6 = fc.uint8Array({ minLength: 16, maxLength: 16 });
const port = fc.integer({ min: 0, max: 0xffff });
const scopeId = fc.integer({ min: 0, max: 0xffffffff });
const offset = fc.integer({ min: 0, max: 33 });

/** A view full of rubbish: what an encoder leaves unwritten shows. */
function dirtyView(): DataView<ArrayBuffer> {
  return new DataView(new Uint8Array(64).fill(0xa5).buffer);
}

describe("encodeSockaddr and decodeSockaddr", () => {
  test("IPv4 survives the round trip, at any offset", () => {
    fc.assert(
      fc.property(ipv4, port, offset, (address, port, offset) => {
        const view = dirtyView();
        expect(encodeSockaddr(view, offset, address, port)).toBe(sockaddr_in.size);
        expect(decodeSockaddr(view, offset)).toEqual({ address, port, scopeId: 0 });
      }),
    );
  });

  test("IPv6 survives the round trip, at any offset", () => {
    fc.assert(
      fc.property(ipv6, port, scopeId, offset, (address, port, scopeId, offset) => {
        const view = dirtyView();
        expect(encodeSockaddr(view, offset, address, port, scopeId)).toBe(sockaddr_in6.size);
        const isMapped = address.subarray(0, 12).join() === mapped(loopback).subarray(0, 12).join();
        fc.pre(!isMapped);
        expect(decodeSockaddr(view, offset)).toEqual({ address, port, scopeId });
      }),
    );
  });

  test("a mapped address is the IPv4 address that it stands for", () => {
    fc.assert(
      fc.property(ipv4, port, (address, port) => {
        const view = dirtyView();
        encodeSockaddr(view, 0, mapped(address), port);
        expect(decodeSockaddr(view, 0)).toEqual({ address, port, scopeId: 0 });
      }),
    );
  });

  test("every byte of the structs is written, none behind them", () => {
    fc.assert(
      fc.property(fc.oneof(ipv4, ipv6), port, (address, port) => {
        const [one, other] = [dirtyView(), new DataView(new ArrayBuffer(64))];
        const length = encodeSockaddr(one, 0, address, port);
        encodeSockaddr(other, 0, address, port);
        const bytes = new Uint8Array(one.buffer);
        expect(bytes.subarray(0, length)).toEqual(new Uint8Array(other.buffer).subarray(0, length));
        expect(new Set(bytes.subarray(length))).toEqual(new Set([0xa5]));
      }),
    );
  });

  test("the bytes are those of C: family in host order, port in network order", () => {
    const view = new DataView(new ArrayBuffer(16));
    encodeSockaddr(view, 0, Uint8Array.of(8, 8, 4, 4), 8080);
    expect([...new Uint8Array(view.buffer)]).toEqual([
      2, 0, 0x1f, 0x90, 8, 8, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
  });

  test("another family is nothing", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff }), (family) => {
        fc.pre(family !== AF_INET && family !== AF_INET6);
        const view = new DataView(new ArrayBuffer(28));
        view.setUint16(0, family, true);
        expect(decodeSockaddr(view, 0)).toBeUndefined();
      }),
    );
  });

  test("the decoded bytes are a copy", () => {
    const view = new DataView(new ArrayBuffer(16));
    encodeSockaddr(view, 0, loopback, 80);
    const decoded = decodeSockaddr(view, 0);
    view.setUint32(4, 0);
    expect(decoded?.address).toEqual(loopback);
  });
});

describe("Message", () => {
  const fds: number[] = [];
  const sending = new Message(allocate(2048));
  const receiving = new Message(allocate(64));
  afterAll(() => {
    for (const fd of fds) sys.close(fd);
  });

  /** A dual-stack receiver that asks for both original destinations, and two senders to it. */
  function sockets() {
    const receiver = check(sys.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    fds.push(receiver);
    check(sys.setsockopt(receiver, IPPROTO_IPV6, IPV6_V6ONLY, 0), "IPV6_V6ONLY");
    check(sys.setsockopt(receiver, IPPROTO_IP, IP_RECVORIGDSTADDR, 1), "IP_RECVORIGDSTADDR");
    check(sys.setsockopt(receiver, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1), "IPV6_RECVORIGDSTADDR");
    const name = allocate(28);
    const length = encodeSockaddr(name.view, 0, new Uint8Array(16), 0);
    check(sys.bind(receiver, name.address, length), "bind");
    const v4 = boundSocket();
    const v6 = check(sys.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    fds.push(v4, v6);
    return { receiver, v4, v6, port: localAddress(receiver).port };
  }

  function receive(fd: number): number {
    receiving.prepareReceive();
    return check(sys.recvmsg(fd, receiving.address, 0), "recvmsg");
  }

  test("IPv4 on a dual-stack socket: sender, original destination, chosen source", () => {
    const { receiver, v4, port } = sockets();
    const to = { address: Uint8Array.of(127, 9, 8, 7), port, scopeId: 0 };
    new TextEncoder().encodeInto("datagram", sending.payload.bytes);
    sending.prepareSend(AF_INET, 8, to, Uint8Array.of(127, 0, 0, 77));
    check(sys.sendmsg(v4, sending.address, 0), "sendmsg");
    expect(receive(receiver)).toBe(8);
    expect(new TextDecoder().decode(receiving.payload.bytes.subarray(0, 8))).toBe("datagram");
    expect(receiving.originalDestination()).toEqual(to);
    const { port: sourcePort } = localAddress(v4);
    const source = { address: Uint8Array.of(127, 0, 0, 77), port: sourcePort, scopeId: 0 };
    expect(receiving.sender()).toEqual(source);
    expect(receiving.flags()).toBe(0);
  });

  test("an answer leaves from the address that was asked, in both families", () => {
    const { receiver, v4, v6, port } = sockets();
    const loopback6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
    const cases = [
      [v4, AF_INET, Uint8Array.of(127, 5, 5, 5)],
      [v6, AF_INET6, loopback6],
    ] as const;
    for (const [fd, domain, address] of cases) {
      sending.prepareSend(domain, 4, { address, port, scopeId: 0 });
      check(sys.sendmsg(fd, sending.address, 0), "sendmsg");
      receive(receiver);
      const client = receiving.sender();
      const asked = receiving.originalDestination();
      if (client === undefined || asked === undefined) throw new Error("no addresses");
      expect(asked).toEqual({ address, port, scopeId: 0 });
      sending.prepareSend(AF_INET6, 4, client, asked.address);
      check(sys.sendmsg(receiver, sending.address, 0), "sendmsg");
      receive(fd);
      expect(receiving.sender()).toEqual({ address, port, scopeId: 0 });
    }
  });

  test("a datagram larger than the payload is marked as cut", () => {
    const { receiver, v4, port } = sockets();
    sending.prepareSend(AF_INET, 100, { address: loopback, port, scopeId: 0 });
    check(sys.sendmsg(v4, sending.address, 0), "sendmsg");
    expect(receive(receiver)).toBe(64);
    expect(receiving.flags() & MSG_TRUNC).toBe(MSG_TRUNC);
  });

  test("without control messages there is no original destination", () => {
    const receiver = boundSocket();
    fds.push(receiver);
    sending.prepareSend(AF_INET, 4, localAddress(receiver));
    check(sys.sendmsg(receiver, sending.address, 0), "sendmsg");
    receive(receiver);
    expect(receiving.originalDestination()).toBeUndefined();
    expect(receiving.sender()).toEqual(localAddress(receiver));
  });
});
