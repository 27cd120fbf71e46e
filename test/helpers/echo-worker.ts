/** A Worker whose services report the changes that they are sent, and end when they are told to. */

import { parentPort, workerData } from "node:worker_threads";
import { WorkerContext } from "../../src/workers/context.ts";
import { Counter } from "../../src/workers/counters.ts";
import type { ServiceChange, WorkerInput } from "../../src/workers/protocol.ts";
import type { Service, ServiceContext } from "../../src/workers/service-context.ts";

class EchoService implements Service {
  private readonly context: ServiceContext;

  constructor(context: ServiceContext) {
    this.context = context;
  }

  update(change: ServiceChange): void {
    this.context.shared.count(Counter.accepted, 1);
    this.context.report({ kind: "warning", text: JSON.stringify(change) });
  }

  stop(): void {
    this.context.finish();
  }
}

const context = new WorkerContext(
  workerData as WorkerInput,
  (message) => parentPort?.postMessage(message),
  (service) => new EchoService(service),
);
context.run();
