/** The entry point of a Worker: one task on one event loop, until it is done or told to stop. */

import { parentPort, workerData } from "node:worker_threads";
import { StdioDatagrams } from "./connect/stdio-datagrams.ts";
import { StdioStream } from "./connect/stdio-stream.ts";
import { TcpForwarder } from "./forward/tcp/forwarder.ts";
import { UdpForwarder } from "./forward/udp/forwarder.ts";
import { Quota } from "./listen/quota.ts";
import { TcpService } from "./listen/tcp.ts";
import { UdpService } from "./listen/udp.ts";
import { type Service, WorkerContext } from "./workers/context.ts";
import type { Command, ForwardTask, RespondTask, Task, WorkerInput } from "./workers/protocol.ts";
import { type OpenRows, TableWalk } from "./workers/table.ts";

/** `listen`: TCP and UDP sockets with one quota. Ends when that is spent and nothing is open. */
class RespondService implements Service {
  private readonly context: WorkerContext;
  private readonly tcp: TcpService;
  private readonly udp: UdpService | undefined;
  private ending = false;

  constructor(context: WorkerContext, task: RespondTask) {
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

/** `forward`: TCP, UDP or both. Ends when both have ended. */
class ForwardServices implements Service {
  private readonly services: (Service & OpenRows)[] = [];
  private readonly context: WorkerContext;
  private running: number;
  private table: TableWalk | undefined;

  constructor(context: WorkerContext, task: ForwardTask) {
    this.context = context;
    const onFinished = () => {
      if (--this.running === 0) context.finish();
    };
    const { sessions, sockets } = task;
    if (sockets.some(({ protocol }) => protocol === "tcp")) {
      this.services.push(new TcpForwarder(context, task, onFinished));
    }
    if (sessions !== undefined) {
      this.services.push(new UdpForwarder(context, task, sessions, onFinished));
    }
    this.running = this.services.length;
  }

  stop(): void {
    for (const service of this.services) service.stop();
  }

  onCommand(command: Command): void {
    if (command.kind === "table") return this.showTable();
    for (const service of this.services) service.onCommand?.(command);
  }

  private showTable(): void {
    if (this.table?.isDone === false) return;
    this.table = new TableWalk(this.context, this.services);
  }
}

function start(context: WorkerContext, task: Task): Service {
  switch (task.kind) {
    case "respond":
      return new RespondService(context, task);
    case "pipe":
      return new StdioStream(context, task);
    case "forward":
      return new ForwardServices(context, task);
    case "datagrams":
      return new StdioDatagrams(context, task);
  }
}

const context = new WorkerContext(workerData as WorkerInput, (message) =>
  parentPort?.postMessage(message),
);
context.run(start);
