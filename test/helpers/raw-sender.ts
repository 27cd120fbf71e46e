/**
 * `raw-sender.ts FROM FROM_PORT TO TO_PORT WHAT…`: what a namespace test has a RawSender do.
 * WHAT is the size of a datagram to TO, whose bytes count up, or `refuse`.
 */

import { check, ECONNREFUSED } from "../../ffi/errno.ts";
import { allocate } from "../../ffi/memory.ts";
import { RawSender } from "../../src/engine/raw-sender.ts";
import { ip } from "./addresses.ts";

const [from = "", fromPort, to = "", toPort, ...what] = process.argv.slice(2);
const source = { address: ip(from), port: Number(fromPort), scopeId: 0 };
const destination = { address: ip(to), port: Number(toPort), scopeId: 0 };

const sender = new RawSender();
const payload = allocate(70_000);
payload.bytes.forEach((_, at) => {
  payload.bytes[at] = at & 0xff;
});
for (const word of what) {
  if (word === "refuse") {
    check(sender.sendUnreachable(destination, source, ECONNREFUSED), "sendUnreachable");
  } else check(sender.send(source, destination, payload, 256, Number(word)), "send");
}
sender.close();
