/** Batches of datagrams over loopback: sizes, order, UDP_GRO and UDP_SEGMENT. */

import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  IP_RECVORIGDSTADDR,
  IPPROTO_IP,
  SO_RCVBUF,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
} from "../../../ffi/constants.ts";
import { EAGAIN, EMSGSIZE } from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { makeEnvelope, SendBatch } from "../../../ffi/send-batch.ts";
import { decodeSockaddr } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import { boundSocket, localAddress, udpPair } from "../../helpers/sockets.ts";

const open: number[] = [];
afterEach(() => {
  for (const fd of open.splice(0)) sys.close(fd);
});

function pair(): [number, number] {
  const [one, other] = udpPair();
  open.push(one, other);
  for (const fd of [one, other]) sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, 4 * 1024 * 1024);
  return [one, other];
}

const slots = new PayloadSlots(64);
const flows = new ReceiveBatch(slots, false);
const arrivals = new ReceiveBatch(slots, true);
const batch = new SendBatch(65);
const memory = allocate(256 * 1024);

/** The sizes of what was received, each message of GRO's taken apart; the content is checked. */
function sizesOf(count: number, received = flows): number[] {
  const sizes: number[] = [];
  for (let i = 0; i < count; i++) {
    const length = received.length(i);
    const size = received.segment(i) || Math.max(1, length);
    const bytes = slots.buffer.bytes.subarray(slots.offset(i), slots.offset(i) + length);
    let done = 0;
    do {
      const part = bytes.subarray(done, done + size);
      expect(part.every((byte) => byte === sizes.length % 251)).toBe(true);
      sizes.push(part.length);
      done += size;
    } while (done < length);
  }
  return sizes;
}

/** Adds datagrams of these sizes, each filled with its number. */
function add(sizes: readonly number[]): void {
  let at = 0;
  sizes.forEach((size, number) => {
    memory.bytes.fill(number % 251, at, at + size);
    batch.add(memory.address + at, size, 0);
    at += size;
  });
}

function receiveAll(fd: number, received = flows): number[] {
  const count = received.receive(fd);
  return count < 0 ? [] : sizesOf(count, received);
}

const sizeLists: fc.Arbitrary<number[]> = fc.array(
  fc.constantFrom(0, 1, 2, 100, 100, 100, 1200, 1200, 1472),
  {
    maxLength: 60,
  },
);

describe.each([{ gro: false }, { gro: true }])("UDP_GRO $gro", ({ gro }) => {
  test("what is sent arrives, datagram for datagram and in order", () => {
    const [from, to] = pair();
    if (gro) expect(sys.setsockopt(to, SOL_UDP, UDP_GRO, 1)).toBe(0);
    fc.assert(
      fc.property(sizeLists, fc.boolean(), (sizes, maySegment) => {
        batch.begin(undefined, maySegment);
        add(sizes);
        batch.send(from);
        expect([batch.sent, batch.dropped, batch.errno]).toEqual([sizes.length, 0, 0]);
        expect(batch.sentBytes).toBe(sizes.reduce((sum, size) => sum + size, 0));
        expect(receiveAll(to)).toEqual(sizes);
      }),
    );
  });
});

describe("joined datagrams", () => {
  test("are handed over together, and sent on as they came", () => {
    const [from, to] = pair();
    const [onFrom, onTo] = pair();
    sys.setsockopt(to, SOL_UDP, UDP_GRO, 1);
    const sizes: number[] = [...Array(20).fill(1000), 17];
    batch.begin(undefined, true);
    add(sizes);
    batch.send(from);
    expect(flows.receive(to)).toBe(1);
    expect([flows.length(0), flows.segment(0)]).toEqual([20_017, 1000]);
    batch.begin(undefined, true);
    batch.add(slots.address(0), flows.length(0), flows.segment(0));
    batch.send(onFrom);
    expect(batch.sent).toBe(21);
    expect(receiveAll(onTo)).toEqual(sizes);
  });
});

test("one that is too large is dropped, and keeps back none behind it", () => {
  const [from, to] = pair();
  batch.begin(undefined, true);
  add([65_507, 65_508, 3]);
  batch.send(from);
  expect([batch.sent, batch.dropped, batch.errno]).toEqual([2, 1, EMSGSIZE]);
  expect(flows.receive(to)).toBe(2);
  expect([flows.length(0), flows.length(1)]).toEqual([65_507, 3]);
  expect(flows.receive(to)).toBe(-EAGAIN);
});

test("a header comes in front of one datagram alone", () => {
  const [from, to] = pair();
  memory.bytes.fill(1, 0, 52);
  memory.bytes.fill(2, 100, 200);
  batch.begin(undefined, true);
  batch.addWithHeader(memory.address, 52, memory.address + 100, 100);
  batch.add(memory.address + 100, 100, 0);
  batch.send(from);
  expect([batch.sent, batch.sentBytes]).toEqual([2, 200]);
  expect(flows.receive(to)).toBe(2);
  expect([flows.length(0), flows.length(1)]).toEqual([152, 100]);
  expect([...slots.buffer.bytes.subarray(50, 54)]).toEqual([1, 1, 2, 2]);
});

test("what is cleared is not sent again, and stays counted", () => {
  const [from, to] = pair();
  batch.begin(undefined, true);
  add([3]);
  batch.send(from);
  batch.clear();
  add([4, 5]);
  batch.send(from);
  expect([batch.sent, batch.sentBytes]).toEqual([3, 12]);
  expect(flows.receive(to)).toBe(3);
  expect([0, 1, 2].map((index) => flows.length(index))).toEqual([3, 4, 5]);
});

test("what is trimmed of a message is no more of it, until that is said anew", () => {
  const [from, to] = pair();
  batch.begin(undefined, false);
  add([5, 8]);
  batch.send(from);
  expect(flows.receive(to)).toBe(2);
  flows.trim(0, 5);
  flows.trim(1, 3);
  expect([flows.length(0), flows.length(1)]).toEqual([0, 5]);
  expect(flows.address(1)).toBe(slots.address(1) + 3);
  for (const index of [0, 1]) flows.trim(index, 0);
  expect([flows.length(0), flows.length(1)]).toEqual([5, 8]);
  expect(flows.address(1)).toBe(slots.address(1));
});

test("who sent it and where to is told, and an envelope answers from there", () => {
  const server = boundSocket();
  const client = boundSocket();
  open.push(server, client);
  sys.setsockopt(server, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
  const [home, away] = [localAddress(server), localAddress(client)];
  const loopback2 = Uint8Array.of(127, 0, 0, 1);
  batch.begin(makeEnvelope(2, home, loopback2), true);
  add([5, 5, 5, 7]);
  batch.send(client);
  expect(batch.sent).toBe(4);
  expect(arrivals.receive(server)).toBe(4);
  for (let i = 0; i < 4; i++) {
    const name = new DataView(arrivals.names.buffer, arrivals.nameAt(i) * 4);
    expect(decodeSockaddr(name, 0)).toEqual(away);
    const destination = new DataView(arrivals.controls.buffer, arrivals.destinationAt(i) * 4);
    expect(decodeSockaddr(destination, 0)).toEqual(home);
  }
});

test("an envelope without a source leaves that to the socket", () => {
  const [server, client] = [boundSocket(), boundSocket()];
  open.push(server, client);
  batch.begin(makeEnvelope(2, localAddress(server)), true);
  add([4]);
  batch.send(client);
  expect([batch.sent, arrivals.receive(server)]).toEqual([1, 1]);
  const name = new DataView(arrivals.names.buffer, arrivals.nameAt(0) * 4);
  expect(decodeSockaddr(name, 0)).toEqual(localAddress(client));
});
