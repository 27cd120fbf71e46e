/**
 * `segments.ts ADDRESS LISTS`: what a namespace test has a SendBatch do. LISTS is JSON: lists of
 * sizes, each of which is sent as one batch to ADDRESS and received there with UDP_GRO. A line of
 * JSON for each: what became of it, and the sizes that arrived, -1 for one that was changed.
 */

import { SO_RCVBUF, SOL_SOCKET, SOL_UDP, UDP_GRO } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { PayloadSlots, ReceiveBatch } from "../../ffi/receive-batch.ts";
import { SendBatch } from "../../ffi/send-batch.ts";
import { encodeSockaddr } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import { bindSocket, localName } from "../../src/engine/sockets.ts";
import { ip } from "./addresses.ts";

const [address = "", lists = "[]"] = process.argv.slice(2);

const bound = () => {
  const at = { address: ip(address), port: 0, scopeId: 0 };
  return bindSocket({ protocol: "udp", transparent: false }, at);
};
const [from, to] = [bound(), bound()];
const name = allocate(sockaddr_storage.size);
for (const [one, other] of [
  [from, to],
  [to, from],
] as const) {
  const { port } = localName(other);
  const length = encodeSockaddr(name.view, 0, ip(address), port);
  check(sys.connect(one, name.address, length), "connect");
}
sys.setsockopt(to, SOL_SOCKET, SO_RCVBUF, 4 * 1024 * 1024);
check(sys.setsockopt(to, SOL_UDP, UDP_GRO, 1), "UDP_GRO");

const slots = new PayloadSlots(64);
const flows = new ReceiveBatch(slots, false);
const batch = new SendBatch(64);
const memory = allocate(1024 * 1024);

/** What of message `index` arrived, datagram by datagram; each is filled with its number. */
function take(index: number, sizes: number[]): void {
  const length = flows.length(index);
  const size = flows.segment(index) || Math.max(1, length);
  let done = 0;
  do {
    const start = slots.offset(index) + done;
    const part = slots.buffer.bytes.subarray(start, start + Math.min(size, length - done));
    const isWhole = part.every((byte) => byte === sizes.length % 251);
    sizes.push(isWhole ? part.length : -1);
    done += size;
  } while (done < length);
}

for (const list of JSON.parse(lists) as number[][]) {
  batch.begin(undefined, true);
  let at = 0;
  for (const [number, size] of list.entries()) {
    memory.bytes.fill(number % 251, at, at + size);
    batch.add(memory.address + at, size, 0);
    at += size;
  }
  batch.send(from);
  const received: number[] = [];
  for (let count = flows.receive(to); count > 0; count = flows.receive(to)) {
    for (let i = 0; i < count; i++) take(i, received);
  }
  const { sent, sentBytes, dropped, errno, isSegmentRefused } = batch;
  const line = { sent, sentBytes, dropped, errno, isSegmentRefused, received };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
