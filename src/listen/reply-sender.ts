/**
 * The answers of `listen --udp`: each leaves from the address that its question was sent to. If
 * that has the listener's port, it leaves through the listener, with that address as its source. If
 * TPROXY has changed the port, a transparent socket is bound to the original destination for the
 * answers of one flow; it gets nothing that is sent there (`openReplySocket`). Where another
 * program has that port, they are raw packets.
 */

import { type CallFailure, describeFailure } from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import { type Envelope, makeEnvelope, SendBatch } from "../../ffi/send-batch.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import { RawSender, rawRefusal, rawWarning } from "../engine/raw-sender.ts";
import { familyOf } from "../engine/sockets.ts";
import { setHopLimit } from "../engine/transparent.ts";
import { openReplySocket } from "../engine/udp-sockets.ts";
import type { WorkerContext } from "../workers/context.ts";
import type { ServedSocket } from "../workers/protocol.ts";

/** From where the answers of one flow leave, and to whom. */
interface Route {
  readonly reached: SocketAddress;
  readonly peer: SocketAddress;
  /** Undefined: as raw packets. */
  readonly fd: number | undefined;
  readonly envelope: Envelope | undefined;
  readonly isOwn: boolean;
  /** The hop limit that was set last; 0: the kernel's. */
  hopLimit: number;
}

export class ReplySender {
  private readonly context: WorkerContext;
  private readonly sending = new SendBatch(1);
  private readonly raw = new RawSender();
  private route: Route | undefined;

  /** Warns of what cannot be sent. */
  constructor(context: WorkerContext) {
    this.context = context;
  }

  /** From here on answers are of questions that `peer` has sent to `reached`, come by `socket`. */
  begin(socket: ServedSocket, reached: SocketAddress, peer: SocketAddress): void {
    this.end();
    if (reached.port === socket.port) {
      const envelope = makeEnvelope(socket.domain, peer, reached.address);
      // What was set for others is still there.
      this.route = { reached, peer, fd: socket.fd, envelope, isOwn: false, hopLimit: -1 };
      return;
    }
    const fd = openReplySocket(reached, true);
    if (typeof fd === "number") {
      const envelope = makeEnvelope(familyOf(reached), peer);
      this.route = { reached, peer, fd, envelope, isOwn: true, hopLimit: 0 };
      return;
    }
    const warning = rawWarning(fd, reached.port);
    if (warning === undefined) return void this.fail(fd);
    this.context.warn(warning);
    this.route = { reached, peer, fd: undefined, envelope: undefined, isOwn: false, hopLimit: 0 };
  }

  /**
   * Sends the `length` bytes at `offset` of `payload`: whether they have left. `hops` is the hop
   * limit of the question, 0 if it is not known: the answer has one less, so that those end who
   * answer each other.
   */
  send(payload: NativeBuffer, offset: number, length: number, hops: number): boolean {
    const { route } = this;
    if (route === undefined) return false;
    const { reached, peer, fd, envelope } = route;
    if (fd === undefined) {
      const result = this.raw.send(reached, peer, payload, offset, length);
      if (result < 0) this.context.warn(rawRefusal(-result));
      return result >= 0;
    }
    if (hops > 1 && hops - 1 !== route.hopLimit) {
      route.hopLimit = hops - 1;
      setHopLimit(fd, familyOf(peer), route.hopLimit);
    }
    const { sending } = this;
    sending.begin(envelope, false);
    sending.add(payload.address + offset, length, 0);
    sending.send(fd);
    return sending.sent === 1 || this.fail({ call: "sendmmsg", errno: sending.errno });
  }

  /** No more of this flow come for now. */
  end(): void {
    const { route } = this;
    this.route = undefined;
    if (route?.isOwn) sys.close(route.fd as number);
  }

  /** Closes what is open. */
  close(): void {
    this.end();
    this.raw.close();
  }

  private fail(failure: CallFailure): false {
    this.context.warn(`an answer was dropped: ${describeFailure(failure)}`);
    return false;
  }
}
