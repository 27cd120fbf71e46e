/**
 * Sends the answers of `listen --udp`, each from the address that its question was sent to. If that
 * has the listener's port, the answer leaves through the listener, with that address as its source.
 * If TPROXY has changed the port, a transparent socket is bound to the original destination for the
 * answers of one flow; it receives nothing (`openReplySocket`). Where another program has that
 * port, answers are raw packets.
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
import type { ServedSocket } from "../workers/protocol.ts";
import type { ServiceContext } from "../workers/service-context.ts";

/** The two ends of one flow, and the socket for its answers. */
interface Route {
  readonly destination: SocketAddress;
  readonly client: SocketAddress;
  /** Undefined: as raw packets. */
  readonly fd: number | undefined;
  readonly envelope: Envelope | undefined;
  readonly isOwn: boolean;
  /** The hop limit that was set last; 0: the kernel's. */
  hopLimit: number;
}

export class ReplySender {
  private readonly context: ServiceContext;
  private readonly sending = new SendBatch(1);
  private readonly raw = new RawSender();
  private route: Route | undefined;

  constructor(context: ServiceContext) {
    this.context = context;
  }

  /** Begins a flow: `client` has sent to `destination`, and `socket` has received that. */
  begin(socket: ServedSocket, destination: SocketAddress, client: SocketAddress): void {
    this.end();
    if (destination.port === socket.port) {
      const envelope = makeEnvelope(socket.domain, client, destination.address);
      // The listener still has the hop limit of the flow before.
      this.route = { destination, client, fd: socket.fd, envelope, isOwn: false, hopLimit: -1 };
      return;
    }
    const fd = openReplySocket(destination, true);
    if (typeof fd === "number") {
      const envelope = makeEnvelope(familyOf(destination), client);
      this.route = { destination, client, fd, envelope, isOwn: true, hopLimit: 0 };
      return;
    }
    const warning = rawWarning(fd, destination.port);
    if (warning === undefined) return void this.fail(fd);
    this.context.warn(warning);
    this.route = {
      destination,
      client,
      fd: undefined,
      envelope: undefined,
      isOwn: false,
      hopLimit: 0,
    };
  }

  /**
   * Sends the `length` bytes at `offset` of `payload`; returns false, after a warning, if that
   * fails. `hops` is the hop limit of the question, 0 if it is not known. The answer has one less,
   * so that two programs do not answer each other for ever.
   */
  send(payload: NativeBuffer, offset: number, length: number, hops: number): boolean {
    const { route } = this;
    if (route === undefined) return false;
    const { destination, client, fd, envelope } = route;
    if (fd === undefined) {
      const result = this.raw.send(destination, client, payload, offset, length);
      if (result < 0) this.context.warn(rawRefusal(-result));
      return result >= 0;
    }
    if (hops > 1 && hops - 1 !== route.hopLimit) {
      route.hopLimit = hops - 1;
      setHopLimit(fd, familyOf(client), route.hopLimit);
    }
    const { sending } = this;
    sending.begin(envelope, false);
    sending.add(payload.address + offset, length, 0);
    sending.send(fd);
    return sending.sent === 1 || this.fail({ call: "sendmmsg", errno: sending.errno });
  }

  /** Ends the flow; its answers have been sent. */
  end(): void {
    const { route } = this;
    this.route = undefined;
    if (route?.isOwn) sys.close(route.fd as number);
  }

  /** Closes all sockets. */
  close(): void {
    this.end();
    this.raw.close();
  }

  private fail(failure: CallFailure): false {
    this.context.warn(`an answer was dropped: ${describeFailure(failure)}`);
    return false;
  }
}
