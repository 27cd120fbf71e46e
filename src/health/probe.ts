/**
 * One check of one address, over a socket of its own: from an address of this host, with the mark
 * of the service, so that no capture of ours takes it.
 */

import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  MSG_NOSIGNAL,
  SO_ERROR,
  SOL_SOCKET,
} from "../../ffi/constants.ts";
import { EAGAIN, EINTR, errnoText, SyscallError } from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Mark } from "../../ffi/types.ts";
import type { EventLoop, Handler } from "../engine/loop.ts";
import { bindSocket, startConnect } from "../engine/sockets.ts";
import type { Dialog } from "./dialogs.ts";

/** Where a check goes. */
export interface ProbeTarget {
  readonly protocol: "tcp" | "udp";
  readonly address: SocketAddress;
  readonly mark: Mark | undefined;
}

export class Probe implements Handler {
  private readonly loop: Pick<EventLoop, "add" | "close" | "modify">;
  private readonly dialog: Dialog;
  private readonly buffer: NativeBuffer;
  /** Called once with why it failed; empty: it has not. Not after `cancel`. */
  private readonly onEnd: (failure: string) => void;
  private fd: Fd | undefined;
  private isConnected = false;
  /** It has ended, and only waits until the server closes. */
  private isLingering = false;
  private received = 0;
  private answer = new Uint8Array(0);

  /** `buffer` may be shared by all probes of a thread. Follow it with `start`. */
  constructor(
    loop: Pick<EventLoop, "add" | "close" | "modify">,
    dialog: Dialog,
    buffer: NativeBuffer,
    onEnd: (failure: string) => void,
  ) {
    this.loop = loop;
    this.dialog = dialog;
    this.buffer = buffer;
    this.onEnd = onEnd;
  }

  /** Begins. It may end at once. */
  start({ protocol, address, mark }: ProbeTarget): void {
    try {
      const any = { address: new Uint8Array(address.address.length), port: 0, scopeId: 0 };
      const options = { protocol, transparent: false, mark, portAtConnect: protocol === "tcp" };
      const fd = bindSocket(options, any);
      this.fd = fd;
      startConnect(fd, address);
      const added = this.loop.add(fd, EPOLLOUT, this);
      if (added < 0) throw new SyscallError("epoll_ctl", -added);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.end(`${error.call}: ${errnoText(error.errno)}`);
    }
  }

  /** Ends it without a result, or what is left of it after its result. */
  cancel(): void {
    if (this.fd !== undefined) this.loop.close(this.fd);
    this.fd = undefined;
  }

  onReady(mask: number): void {
    const { fd } = this;
    if (fd === undefined) return;
    if (!this.isLingering && mask & (EPOLLERR | EPOLLHUP)) {
      const errno = sys.getsockopt(fd, SOL_SOCKET, SO_ERROR);
      if (errno > 0) return this.end(errnoText(errno).toLowerCase());
    }
    if (!this.isConnected && mask & EPOLLOUT) return this.ask(fd);
    if (mask & (EPOLLIN | EPOLLHUP | EPOLLERR)) this.read(fd);
  }

  /** It is connected. */
  private ask(fd: Fd): void {
    const { buffer, dialog } = this;
    const { request } = dialog;
    this.isConnected = true;
    if (request.length === 0) return this.end("");
    buffer.bytes.set(request);
    // A new socket takes a request at once.
    const sent = sys.send(fd, buffer.address, request.length, MSG_NOSIGNAL);
    if (sent < request.length) return this.end(`send: ${errnoText(Math.max(0, -sent))}`);
    this.loop.modify(fd, EPOLLIN);
  }

  private read(fd: Fd): void {
    const { buffer } = this;
    const count = sys.recv(fd, buffer.address, buffer.size, 0);
    if (count === -EAGAIN || count === -EINTR) return;
    this.received += count;
    if (this.isLingering && count > 0 && this.received < lingerBytesMax) return;
    if (this.isLingering) return this.cancel();
    if (count < 0) return this.end(errnoText(-count).toLowerCase());
    if (count === 0) return this.end("closed without an answer");
    const answer = new Uint8Array(this.answer.length + count);
    answer.set(this.answer);
    answer.set(buffer.bytes.subarray(0, count), this.answer.length);
    const failure = this.dialog.read(answer);
    if (failure !== undefined && this.dialog.isEndedByServer) return this.linger(failure);
    if (failure !== undefined) return this.end(failure);
    this.answer = answer;
    if (answer.length > answerBytesMax) this.end("a long answer that means nothing");
  }

  private linger(failure: string): void {
    this.isLingering = true;
    this.onEnd(failure);
  }

  private end(failure: string): void {
    this.cancel();
    this.onEnd(failure);
  }
}

/** Answers are understood by their first bytes; what follows of a page is read up to a bound. */
const answerBytesMax = 1_024;
const lingerBytesMax = 64 * 1_024;
