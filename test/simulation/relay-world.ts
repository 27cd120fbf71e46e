/** A relay between two simulated sockets (`sockets.ts`), and what has to hold of it. */

import { EPOLLERR, EPOLLIN, EPOLLOUT } from "../../ffi/constants.ts";
import { Relay, type RelayState } from "../../src/forward/tcp/relay.ts";
import { queueBytes, type Random, SimulatedRelayKernel, Socket } from "./sockets.ts";

/** What may come between a call and what it would have answered. */
export const interferences = ["again", "one byte", "client resets", "upstream resets"] as const;
export type Interference = (typeof interferences)[number];

/** A relay, its kernel, and what has become of them. */
export class World {
  readonly client = new Socket();
  readonly upstream = new Socket();
  readonly kernel: SimulatedRelayKernel;
  readonly relay: Relay;
  state: RelayState;
  steps = 0;

  constructor(
    random: Random,
    pipesMax: number,
    interfere: (call: number) => Interference | undefined = () => undefined,
  ) {
    const { client, upstream } = this;
    this.kernel = new SimulatedRelayKernel(random, pipesMax, (call) => {
      const what = interfere(call);
      if (what === "client resets") client.reset();
      else if (what === "upstream resets") upstream.reset();
      else return what;
      return undefined;
    });
    this.kernel.sockets.set(0, client).set(1, upstream);
    this.relay = new Relay(this.kernel, 0, 1, true);
    this.state = this.relay.run();
  }

  get sockets(): readonly Socket[] {
    return [this.client, this.upstream];
  }
  get isOver(): boolean {
    return this.state === "done" || this.state === "failed";
  }

  /** A turn of the proxy's loop: it hears of edges, and goes on with what it has left undone. */
  turn(): void {
    this.steps++;
    if (this.isOver) return;
    const any = this.deliver("client", this.client);
    const other = this.deliver("upstream", this.upstream);
    if (any || other || this.state === "more") this.state = this.relay.run();
    // A close sends what is kept; nothing else may be left so.
    for (const { isCorked, waitsToWrite } of this.state === "open" ? this.sockets : []) {
      if (isCorked && !waitsToWrite) throw new Error("MSG_MORE, and neither more nor an end");
    }
  }

  /** Without anything new, and with peers that read, all that was sent gets through. */
  settle(): void {
    for (let i = 0; i < 1000 && !this.isOver; i++) {
      for (const socket of this.sockets) socket.read(queueBytes);
      this.turn();
    }
    if (!this.isOver) this.checkArrived();
  }

  /** Nobody stalls any more and both peers end: every state has to be left, nothing be lost. */
  finish(): void {
    const { client, upstream, relay, kernel } = this;
    client.end();
    upstream.end();
    for (let i = 0; i < 100_000 && !this.isOver; i++) {
      client.read(queueBytes);
      upstream.read(queueBytes);
      this.turn();
    }
    if (!this.isOver) throw new Error("a state that is never left");
    relay.release();
    if (kernel.wide !== 0) throw new Error(`${kernel.wide} streams are still widened`);
    if (kernel.pipesOut !== 0) throw new Error(`${kernel.pipesOut} pipes are left`);
    if (this.state === "failed") {
      if (!client.isReset && !upstream.isReset) throw new Error("failed without a reset");
      return;
    }
    if (client.isShut && upstream.isShut) throw new Error("shut down what is closed at once");
    client.read(queueBytes);
    upstream.read(queueBytes);
    this.checkArrived();
    if (client.isReset || upstream.isReset) return;
    if (relay.sent !== client.peerSent || relay.received !== upstream.peerSent) {
      throw new Error("the counters are wrong");
    }
  }

  private checkArrived(): void {
    const { client, upstream } = this;
    if (client.isReset || upstream.isReset) return;
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      if (to.peerGot === from.peerSent) continue;
      throw new Error(`${to.peerGot} of ${from.peerSent} bytes arrived`);
    }
  }

  private deliver(side: "client" | "upstream", socket: Socket): boolean {
    const { edges } = socket;
    if (edges === 0) return false;
    socket.edges = 0;
    if (edges & (EPOLLIN | EPOLLERR)) socket.toldEmpty = false;
    if (edges & (EPOLLOUT | EPOLLERR)) socket.toldFull = false;
    this.relay.ready(side, edges);
    return true;
  }
}
