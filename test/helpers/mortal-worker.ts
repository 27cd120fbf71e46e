/**
 * A Worker of `forward` in which a connection from 127.0.0.66 is an error of the program: nothing
 * catches it, and the thread dies with all that it has open.
 */

import { parentPort, workerData } from "node:worker_threads";
import type { Fd } from "../../ffi/types.ts";
import { WorkerContext } from "../../src/engine/context.ts";
import type { ForwardTask, WorkerInput } from "../../src/engine/protocol.ts";
import { ForwardService } from "../../src/tcp/forwarder.ts";

class MortalService extends ForwardService {
  override accepted(fd: Fd): void {
    // sockaddr_in: the last byte of the address.
    if (this.peerName.bytes[7] === 66) throw new Error("deadly\nconnection");
    super.accepted(fd);
  }
}

const context = new WorkerContext(workerData as WorkerInput, (message) =>
  parentPort?.postMessage(message),
);
context.run((running, task) => {
  return new MortalService(running, task as ForwardTask, () => running.finish());
});
