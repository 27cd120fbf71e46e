/** `ffi/memory.ts`: what C sees stays where it is and as it is, whatever the collector does. */

import { describe, expect, test } from "bun:test";
import { Worker } from "node:worker_threads";
import { allocate, allocated } from "../../../ffi/memory.ts";
import { collected, stressBuffers } from "../../helpers/native-memory.ts";

describe("a native buffer", () => {
  test("is zeroed, of the asked size, aligned and counted", () => {
    const before = allocated();
    const buffer = allocate(24);
    expect(buffer.size).toBe(24);
    expect([...buffer.bytes]).toEqual(Array.from({ length: 24 }, () => 0));
    expect(buffer.view.buffer).toBe(buffer.bytes.buffer);
    expect(buffer.address % 8).toBe(0);
    expect(allocated()).toEqual({ buffers: before.buffers + 1, bytes: before.bytes + 24 });
  });

  test("has a size that makes sense", () => {
    for (const size of [0, -1, 1.5, Number.NaN, Infinity]) {
      expect(() => allocate(size)).toThrow(RangeError);
    }
  });

  test("that only C knows of is never collected; one that was not registered is", async () => {
    expect(await collected()).toEqual(["unregistered"]);
  });

  test("keeps its bytes under forced collections, in two threads at once", async () => {
    const worker = new Worker(new URL("../../helpers/native-memory.ts", import.meta.url), {
      workerData: "native-memory",
    });
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    worker.once("message", resolve).once("error", reject);
    const exited = new Promise((done) => worker.once("exit", done));
    expect(stressBuffers(20)).toEqual([]);
    expect(await promise).toEqual({ problems: [], collected: ["unregistered"] });
    await exited;
  });
});
