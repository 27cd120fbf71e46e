/** The engine itself as the demo's listener: a Worker over sockets that belong to a namespace. */

import { SO_DOMAIN, SOL_SOCKET } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { respondTask } from "../control/respond-task.ts";
import { bindSocket, listenOn } from "../engine/sockets.ts";
import { TextTranscript } from "../log/transcript.ts";
import type { Endpoint } from "../net/endpoint.ts";
import { formatUrl } from "../net/endpoint.ts";
import { WorkerPool } from "../workers/pool.ts";
import type { Responding, WorkerEvent } from "../workers/protocol.ts";
import type { Host } from "./topology-builder.ts";
import { waitFor } from "./wait.ts";

/** The demo's surroundings: where Workers start, and when to stop. */
export interface Setting {
  readonly workerEntry: URL;
  readonly signal: AbortSignal;
}

/** The listener and its behaviour. */
export interface ServerOptions {
  readonly protocol: "tcp" | "udp";
  readonly address: Uint8Array;
  readonly port: number;
  readonly transparent: boolean;
  readonly answer: Responding;
}

/** The seed's answer. */
export const helloWorld: Responding = {
  kind: "reply",
  bytes: new TextEncoder().encode("hello world\n"),
};

/** How long the listener's side of a conversation may take to be reported. */
const reportTimeoutMs = 5_000;

export class Server {
  readonly fd: Fd;
  private readonly pool: WorkerPool;
  private readonly transcript: TextTranscript;
  private readonly signal: AbortSignal;
  private events: WorkerEvent[] = [];
  private lines: string;
  private stopped: Promise<unknown> | undefined;

  /** Starts a Worker that serves in the host's namespace. @throws SyscallError */
  constructor(host: Host, options: ServerOptions, setting: Setting) {
    const { protocol, address, port, transparent, answer } = options;
    this.fd = host.run(() => {
      const fd = bindSocket({ protocol, transparent }, { address, port, scopeId: 0 });
      if (protocol === "tcp") listenOn(fd);
      return fd;
    });
    this.transcript = new TextTranscript(protocol);
    this.signal = setting.signal;
    const family = address.length === 4 ? 4 : 6;
    const endpoint = {
      address: { family, bytes: address },
      port: port as Endpoint["port"],
    } as const;
    this.lines = `[+] Bound to ${formatUrl(protocol, endpoint)}\n`;
    this.pool = new WorkerPool(async (events) => this.onEvents(events));
    const domain = sys.getsockopt(this.fd, SOL_SOCKET, SO_DOMAIN);
    const task = respondTask({ fd: this.fd, protocol, domain, address, port }, answer);
    this.pool.start(setting.workerEntry);
    this.pool.add([task]);
  }

  /**
   * Waits for an event, which is then taken with all before it; undefined if it does not come.
   * @throws Interrupted
   */
  async next<Kind extends WorkerEvent["kind"]>(kind: Kind) {
    const isWanted = (event: WorkerEvent): event is Extract<WorkerEvent, { kind: Kind }> =>
      event.kind === kind;
    return await waitFor(
      () => {
        const index = this.events.findIndex(isWanted);
        const found = this.events[index];
        if (found === undefined || !isWanted(found)) return undefined;
        this.events = this.events.slice(index + 1);
        return found;
      },
      reportTimeoutMs,
      this.signal,
    );
  }

  /** Waits for a connection and its end, and answers the connection. @throws Interrupted */
  async conversation() {
    const connection = await this.next("connection");
    await this.next("closed");
    return connection;
  }

  /** What the listener has printed since the last call, as `tproxy listen` prints it. */
  takeLines(): string {
    const { lines } = this;
    this.lines = "";
    return lines;
  }

  /** Ends the Worker; its sockets are closed when this settles. */
  async stop(): Promise<void> {
    if (this.stopped === undefined) {
      this.pool.stop();
      this.stopped = this.pool.finished();
    }
    await this.stopped;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  private onEvents(events: readonly WorkerEvent[]): void {
    this.events.push(...events);
    this.lines += events.map((event) => this.transcript.render(event)).join("");
  }
}
