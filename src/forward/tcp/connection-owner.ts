/** What the service of forwarded connections is to each of them. */

import type { EventLoop } from "../../engine/loop.ts";
import type { Admitted } from "../../fairness/admission.ts";
import type { End } from "../../workers/end-reason.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { LoopDetector } from "../loop-detector.ts";
import type { Router } from "../router.ts";
import type { SystemKernel } from "./relay-kernel.ts";
import type { StreamHeaders } from "./stream-headers.ts";
import type { UpstreamSockets } from "./upstream-socket.ts";

/** What a connection needs of the service that it belongs to. */
export interface TcpConnectionOwner<Connection> {
  readonly loop: EventLoop;
  readonly kernel: SystemKernel;
  readonly task: ForwardTask;
  readonly router: Router;
  readonly upstreamSockets: UpstreamSockets;
  readonly loops: LoopDetector;
  readonly headers: StreamHeaders;
  /** Its upstream has not answered in time. Logs the known causes of that. */
  timedOut(connection: Connection): End;
  warn(text: string): void;
  connected(connection: Connection): void;
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
