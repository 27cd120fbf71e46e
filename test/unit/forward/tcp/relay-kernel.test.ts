/** The pool of pipes of a Worker. */

import { expect, test } from "bun:test";
import type { EventLoop } from "../../../../src/engine/loop.ts";
import type { Pipe } from "../../../../src/forward/tcp/direction.ts";
import { SystemKernel } from "../../../../src/forward/tcp/relay-kernel.ts";
import type { StreamBuffers } from "../../../../src/forward/tcp/stream-buffers.ts";

function pool() {
  let [open, refused] = [0, 0];
  const watcher = {
    pipesChanged: (change: number) => {
      open += change;
    },
    pipeRefused: () => void refused++,
    spliceRefused: () => {},
  };
  const kernel = new SystemKernel(4, watcher, {} as EventLoop, {} as StreamBuffers);
  return { kernel, counts: () => ({ open, refused }) };
}

test("where descriptors are short, idle pipes are closed until a connection has ended", () => {
  const { kernel, counts } = pool();
  const pipes = [kernel.takePipe(), kernel.takePipe(), kernel.takePipe()] as Pipe[];
  for (const pipe of pipes.slice(1)) kernel.givePipe(pipe);
  expect(counts()).toEqual({ open: 3, refused: 0 });
  kernel.closeIdle();
  expect(counts()).toEqual({ open: 1, refused: 0 });
  expect(kernel.hasPipe()).toBe(false);
  expect(counts()).toEqual({ open: 1, refused: 0 });
  kernel.hopeForPipes();
  expect(kernel.hasPipe()).toBe(true);
  kernel.dropPipe(pipes[0] as Pipe);
  kernel.close();
  expect(counts()).toEqual({ open: 0, refused: 0 });
});
