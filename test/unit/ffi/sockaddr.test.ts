/** The codecs of socket addresses: round trips of any value. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { sockaddr_in, sockaddr_in6 } from "../../../ffi/layout.ts";
import { decodeSockaddr, encodeSockaddr, mapped } from "../../../ffi/sockaddr.ts";
import { loopback } from "../../helpers/sockets.ts";

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
