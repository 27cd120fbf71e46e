/**
 * A Worker of `forward` in which a connection or a session from 127.0.0.66 is an error of the
 * program: nothing catches it, and the thread dies with all that it has open.
 */

import { parentPort, workerData } from "node:worker_threads";
import type { Fd } from "../../ffi/types.ts";
import { TcpForwarder } from "../../src/forward/tcp/forwarder.ts";
import { UdpForwarder } from "../../src/forward/udp/forwarder.ts";
import type { UdpListener } from "../../src/forward/udp/listener.ts";
import type { Session } from "../../src/forward/udp/session.ts";
import { WorkerContext } from "../../src/workers/context.ts";
import type { ForwardTask, WorkerInput } from "../../src/workers/protocol.ts";

class MortalService extends TcpForwarder {
  override accepted(fd: Fd): void {
    // sockaddr_in: the last byte of the address.
    if (this.peerName.bytes[7] === 66) throw new Error("deadly\nconnection");
    super.accepted(fd);
  }
}

class MortalSessions extends UdpForwarder {
  protected override sessionOf(listener: UdpListener, index: number): Session | undefined {
    // The last byte of the client's address.
    if ((this.key[3] as number) >>> 24 === 66) throw new Error("deadly\ndatagram");
    return super.sessionOf(listener, index);
  }
}

const context = new WorkerContext(
  workerData as WorkerInput,
  (message) => parentPort?.postMessage(message),
  (running, task) => {
    const forward = task as ForwardTask;
    const finish = () => running.finish();
    if (forward.sessions === undefined) return new MortalService(running, forward, finish);
    return new MortalSessions(running, forward, forward.sessions, finish);
  },
);
context.run();
