/**
 * The socket of systemd's journal. It keeps nothing: what its short queue does not take at once is
 * dropped and counted, so a journal that hangs costs neither memory nor time.
 */

import {
  AF_UNIX,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
} from "../../ffi/constants.ts";
import { describeErrno, EAGAIN, EMSGSIZE, ENOBUFS } from "../../ffi/errno.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";

/** Where the journal listens. */
const journalPath = "/run/systemd/journal/socket";

/** The most bytes of an entry. */
const entryBytesMax = 64 * 1024;

export class JournalSink {
  /** Entries that were dropped. */
  lost = 0;
  private readonly path: string;
  private readonly failed: (why: string) => void;
  private readonly address: NativeBuffer;
  private readonly buffer = allocate(entryBytesMax);
  private fd = -1;

  /** `failed` is called for each entry that is dropped. */
  constructor(failed: (why: string) => void, path = journalPath) {
    this.path = path;
    this.failed = failed;
    const bytes = new TextEncoder().encode(path);
    this.address = allocate(2 + bytes.length + 1);
    this.address.view.setUint16(0, AF_UNIX, true);
    this.address.bytes.set(bytes, 2);
  }

  /** Sends an entry, or drops it. Never blocks. */
  send(entry: Uint8Array): void {
    const result = this.trySend(entry);
    if (result >= 0) return;
    this.lost++;
    this.failed(`${this.path}: ${describeErrno(-result)}`);
  }

  private trySend(entry: Uint8Array): number {
    if (entry.length > this.buffer.size) return -EMSGSIZE;
    this.buffer.bytes.set(entry);
    const wasOpen = this.fd >= 0;
    const result = wasOpen ? this.write(entry.length) : this.connect();
    if (wasOpen && !isGone(result)) return result;
    // A journal that was started anew has another socket at the path.
    if (wasOpen) this.close();
    const connected = wasOpen ? this.connect() : result;
    return connected < 0 ? connected : this.write(entry.length);
  }

  private write(length: number): number {
    return sys.send(this.fd, this.buffer.address, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  close(): void {
    if (this.fd >= 0) sys.close(this.fd);
    this.fd = -1;
  }

  private connect(): number {
    const fd = sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return fd;
    const result = sys.connect(fd, this.address.address, this.address.size);
    if (result < 0) sys.close(fd);
    else this.fd = fd;
    return result;
  }
}

/** Whether nobody reads from the socket any more, judged by the result of a send. */
function isGone(result: number): boolean {
  return result < 0 && ![EAGAIN, ENOBUFS, EMSGSIZE].includes(-result);
}
