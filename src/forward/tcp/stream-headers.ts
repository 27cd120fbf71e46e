/** PROXY headers at the beginning of streams. */

import { EAGAIN, EINTR } from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { headerBytesMax } from "../../engine/limits.ts";
import {
  destinationFault,
  type PassedOn,
  type ProxyHeader,
  sourceFault,
} from "../../proto/proxy-header.ts";
import { decodeProxyHeader, encodeProxyHeader } from "../../proto/proxy-protocol.ts";
import { type End, type EndedBy, ended } from "../../workers/end-reason.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";

/** Why a stream has no valid header. */
interface HeaderFault {
  readonly fault: End;
}

function fault(text: string, by: EndedBy): HeaderFault {
  return { fault: ended("proxy-header-invalid", by, undefined, text) };
}

/** All connections of a Worker share it. */
const buffer = allocate(headerBytesMax);

/** Reads and sends headers. */
export class StreamHeaders {
  private readonly kernel: Pick<ConnectionKernel, "peek" | "discard" | "send">;

  constructor(kernel: Pick<ConnectionKernel, "peek" | "discard" | "send">) {
    this.kernel = kernel;
  }

  /**
   * Reads the header of a client's stream, and no byte behind it; undefined while it is not
   * complete. `hasEnded`: the client sends no more; `isDialed`: connections go to its destination.
   */
  take(fd: Fd, hasEnded: boolean, isDialed: boolean): ProxyHeader | HeaderFault | undefined {
    const count = this.kernel.peek(fd, buffer);
    if (count === -EAGAIN || count === -EINTR) return undefined;
    if (count <= 0) return fault("PROXY protocol: no header", "client");
    const result = decodeProxyHeader(buffer.bytes.subarray(0, count));
    if (result.kind === "error") return fault(result.error, "proxy");
    if (result.kind === "more") {
      return hasEnded ? fault("PROXY protocol: no whole header", "client") : undefined;
    }
    if (result.header.protocol === "udp") {
      return fault("PROXY protocol: the header is that of a datagram", "proxy");
    }
    const { source, destination } = result.header;
    const nowhere = isDialed && destination !== undefined ? destinationFault(destination) : "";
    const nobody = (source !== undefined && sourceFault(source)) || nowhere;
    if (nobody !== "") return fault(`PROXY protocol: ${nobody}`, "proxy");
    this.kernel.discard(fd, result.length, buffer);
    return result.header;
  }

  /**
   * Sends a header, with the parts of the client's header in `passed`. A new socket has room for
   * all of it. Returns false if the socket did not take it.
   */
  send(
    fd: Fd,
    version: NonNullable<ForwardTask["dial"]["sendProxy"]>,
    client: SocketAddress,
    original: SocketAddress,
    passed: PassedOn | undefined,
  ): boolean {
    const written = version === "v1" ? "v1" : "v2";
    const encoded = encodeProxyHeader(written, "tcp", client, original, passed);
    buffer.bytes.set(encoded);
    return this.kernel.send(fd, buffer, encoded.length) === encoded.length;
  }
}
