/** What the service of forwarded connections is to each of them. */

import type { EventLoop } from "../engine/loop.ts";
import type { ForwardTask } from "../engine/protocol.ts";
import type { Chooser } from "../forward/chooser.ts";
import type { LoopWatch } from "../forward/loop-watch.ts";
import type { Admitted } from "./admission.ts";
import type { SystemKernel } from "./relay-kernel.ts";
import type { StreamHeaders } from "./stream-headers.ts";
import type { UpstreamSockets } from "./upstream-socket.ts";

/** What a connection needs of the service that it belongs to. */
export interface ForwardingOwner<Connection> {
  readonly loop: EventLoop;
  readonly kernel: SystemKernel;
  readonly task: ForwardTask;
  readonly chooser: Chooser;
  readonly upstreamSockets: UpstreamSockets;
  readonly loops: LoopWatch;
  readonly headers: StreamHeaders;
  /** Its upstream has not answered in time. Returns the error, and logs its known causes. */
  timedOut(connection: Connection): string;
  warn(text: string): void;
  reached(connection: Connection): void;
  /** Its client is known: whether there is a place for it among the others. */
  admit(connection: Connection): Admitted;
  /** Whether few connections of its client are open, so that the kernel may queue more of it. */
  mayWiden(connection: Connection): boolean;
  /** The connection waits for a descriptor; `connectAgain` is called when there is one. */
  waits(connection: Connection, why: string): void;
  /** It waits no longer. */
  goesOn(connection: Connection): void;
  closed(connection: Connection): void;
}
