/** A Worker that reports the commands it is sent, and ends when it is told to stop. */

import { parentPort, workerData } from "node:worker_threads";
import { type Service, WorkerContext } from "../../src/workers/context.ts";
import type { Command, WorkerInput } from "../../src/workers/protocol.ts";

class EchoService implements Service {
  private readonly context: WorkerContext;

  constructor(context: WorkerContext) {
    this.context = context;
  }

  onCommand(command: Command): void {
    this.context.report({ kind: "warning", text: JSON.stringify(command) });
  }

  stop(): void {
    this.context.finish();
  }
}

const context = new WorkerContext(workerData as WorkerInput, (message) =>
  parentPort?.postMessage(message),
);
context.run((running) => new EchoService(running));
