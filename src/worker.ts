/** The entry point of a Worker: what it makes of the tasks that it is sent. */

import { parentPort, workerData } from "node:worker_threads";
import { StdioDatagrams } from "./connect/stdio-datagrams.ts";
import { StdioStream } from "./connect/stdio-stream.ts";
import { ForwardServices } from "./forward/services.ts";
import { HealthChecker } from "./health/checker.ts";
import { Quota } from "./listen/quota.ts";
import { TcpService } from "./listen/tcp.ts";
import { UdpService } from "./listen/udp.ts";
import { WorkerContext } from "./workers/context.ts";
import type { RespondTask, Task, WorkerInput } from "./workers/protocol.ts";
import type { Service, ServiceContext } from "./workers/service-context.ts";

/** `listen`: TCP and UDP sockets with one quota. Ends when that is spent and nothing is open. */
class RespondService implements Service {
  private readonly context: ServiceContext;
  private readonly tcp: TcpService;
  private readonly udp: UdpService | undefined;
  private ending = false;

  constructor(context: ServiceContext, task: RespondTask) {
    this.context = context;
    const quota = new Quota(task.max, () => this.onSpent());
    this.tcp = new TcpService(context, task, quota, () => this.finishWhenIdle());
    const datagramSockets = task.sockets.filter(({ protocol }) => protocol === "udp");
    if (datagramSockets.length > 0) {
      this.udp = new UdpService(context, task, datagramSockets, quota);
    }
  }

  stop(): void {
    this.ending = true;
    this.udp?.stop();
    this.tcp.stop();
    this.finishWhenIdle();
  }

  private onSpent(): void {
    this.ending = true;
    this.udp?.stop();
    this.tcp.stopAccepting();
    this.finishWhenIdle();
  }

  private finishWhenIdle(): void {
    if (this.ending && this.tcp.active === 0) this.context.finish();
  }
}

function start(context: ServiceContext, task: Task): Service {
  switch (task.kind) {
    case "respond":
      return new RespondService(context, task);
    case "pipe":
      return new StdioStream(context, task);
    case "forward":
      return new ForwardServices(context, task);
    case "datagrams":
      return new StdioDatagrams(context, task);
    case "health":
      return new HealthChecker(context, task);
  }
}

const context = new WorkerContext(
  workerData as WorkerInput,
  (message) => parentPort?.postMessage(message),
  start,
);
context.run();
