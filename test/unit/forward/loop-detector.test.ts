import { expect, test } from "bun:test";
import type { Mark } from "../../../ffi/types.ts";
import { LoopDetector } from "../../../src/forward/loop-detector.ts";
import { OutboundFlows } from "../../../src/forward/outbound-flows.ts";
import type { Router } from "../../../src/forward/router.ts";
import type { ForwardTask } from "../../../src/workers/protocol.ts";
import type { ServiceContext } from "../../../src/workers/service-context.ts";

/** What is said of a loop where our sockets have this mark. */
function warningWith(mark: number | undefined): string {
  const said: string[] = [];
  const context = { shared: { count: () => {} }, warn: (text: string) => said.push(text) };
  const ownFlows = OutboundFlows.memory(() => 1);
  const task = { route: { ownFlows }, dial: { mark: mark as Mark | undefined } } as ForwardTask;
  const loops = new LoopDetector(context as unknown as ServiceContext, task, {} as Router, "udp");
  loops.refused({ address: Uint8Array.of(8, 8, 8, 8), port: 53, scopeId: 0 });
  return said.join("\n");
}

test("without a mark the advice is to give one", () => {
  expect(warningWith(undefined)).toMatch(/^a loop: .*udp:\/\/8\.8\.8\.8:53.*set "socket-mark"/);
});

test("where there is one already, it is that the rule has to let it pass", () => {
  const text = warningWith(2);
  expect(text).toContain("our sockets have mark 0x2, and a rule takes what they send all the same");
  expect(text).not.toContain('set "socket-mark"');
});
