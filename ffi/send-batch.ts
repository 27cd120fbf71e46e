/**
 * Many datagrams with one `sendmmsg(2)`, from wherever they lie. With UDP_SEGMENT the kernel takes
 * several datagrams of one size as one message and sends them one by one: what goes out is,
 * datagram for datagram, what was added.
 */

import { encodePacketInfo, packetInfoBytesMax } from "./cmsg.ts";
import { AF_INET, MSG_DONTWAIT, MSG_NOSIGNAL, SOL_UDP, UDP_SEGMENT } from "./constants.ts";
import { EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS, ENOPROTOOPT, EOPNOTSUPP } from "./errno.ts";
import { cmsghdr, iovec, mmsghdr } from "./layout.ts";
import { allocate, type NativeBuffer, setPointer } from "./memory.ts";
import { messageWords } from "./message-words.ts";
import { refused } from "./refused-calls.ts";
import { encodeSockaddr, mapped, type SocketAddress } from "./sockaddr.ts";
import * as sys from "./sys.ts";
import type { Address, Result } from "./types.ts";

const { CONTROL, CONTROLLEN, HEADER_WORDS, IOV, IOVEC_WORDS, IOVLEN, NAME_BYTES, NAMELEN, WORD } =
  messageWords;

/** Datagrams in one message of UDP_SEGMENT: UDP_MAX_SEGMENTS of the oldest kernels that have it. */
const SEGMENTS_MAX = 64;

/** Bytes in one: an IPv4 packet's 65,535 less its headers. */
const SEGMENTED_BYTES_MAX = 65_507;

const SEGMENT_CONTROL_BYTES = 24;
const SEGMENT_CONTROL_WORDS = SEGMENT_CONTROL_BYTES / WORD;

/** Room for IPV6_PKTINFO and UDP_SEGMENT. */
const SEND_CONTROL_BYTES = 64;

/** To whom and from where the messages of one sending go, if the socket is not connected. */
export interface Envelope {
  /** The bytes of a socket address, as words. */
  readonly name: Uint32Array;
  readonly nameBytes: number;
  /** One control message that names the source, as words; empty: the socket's own. */
  readonly control: Uint32Array;
}

/** Copies out of it share its ArrayBuffer: one of their own would cost more. */
const scratch = new DataView(new ArrayBuffer(Math.max(NAME_BYTES, packetInfoBytesMax)));
const scratchWords = new Uint32Array(scratch.buffer);

/**
 * The envelope of datagrams to `to`, for a socket of family `domain`: from `source`, if it may send
 * from that address (IP_PKTINFO, IPV6_PKTINFO), or from where it is bound. To an AF_INET6 one, IPv4
 * addresses are mapped.
 */
export function makeEnvelope(domain: number, to: SocketAddress, source?: Uint8Array): Envelope {
  const target = domain === AF_INET ? to.address : mapped(to.address);
  scratchWords.fill(0);
  const nameBytes = encodeSockaddr(scratch, 0, target, to.port, to.scopeId);
  const name = scratchWords.slice(0, NAME_BYTES / WORD);
  scratchWords.fill(0);
  const controlBytes = source === undefined ? 0 : encodePacketInfo(scratch, source, to.scopeId);
  return { name, nameBytes, control: scratchWords.slice(0, controlBytes / WORD) };
}

/**
 * Why joined datagrams are not taken: an interface or a path that does not suit, or a kernel or
 * sandbox without UDP_SEGMENT.
 */
const segmentRefusals: ReadonlySet<number> = new Set([
  EINVAL,
  EIO,
  EMSGSIZE,
  ENOPROTOOPT,
  EOPNOTSUPP,
]);

/** How many of the `count` mmsghdrs at `messages` were sent, or a negated errno. */
function sendMessages(fd: number, messages: Address, count: number): Result {
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  if (refused.sendmmsg === 0) return sys.sendmmsg(fd, messages, count, flags);
  const bytes = sys.sendmsg(fd, messages, flags);
  return bytes < 0 ? bytes : 1;
}

/**
 * What `sendmmsg` reads: the datagrams of one session in their order. Those that follow each other
 * with one size are joined for UDP_SEGMENT.
 */
export class SendBatch {
  /**
   * Datagrams sent and dropped, bytes sent without the headers in front of them, and the errno of
   * the first drop since `begin`.
   */
  sent = 0;
  sentBytes = 0;
  dropped = 0;
  errno = 0;
  /** Bytes of the largest datagram since `begin`. */
  largest = 0;
  /** Since `begin`: UDP_SEGMENT was refused (the path's MTU, the interface), and done without. */
  isSegmentRefused = false;
  private readonly headers: NativeBuffer;
  private readonly words: Uint32Array;
  private readonly iovecs: NativeBuffer;
  private readonly iovecWords: Uint32Array;
  private readonly name: NativeBuffer;
  private readonly nameWords: Uint32Array;
  private readonly controls: NativeBuffer;
  private readonly controlWords: Uint32Array;
  /** By message: where its iovecs begin, its bytes, its header's, the size of its segments. */
  private readonly firstIovec: Int32Array;
  private readonly bytes: Int32Array;
  private readonly headerBytes: Int32Array;
  private readonly segments: Int32Array;
  private readonly capacity: number;
  /** A header of its own for what is sent again piece by piece. */
  private readonly single: number;
  private envelope: Envelope | undefined;
  private maySegment = false;
  private count = 0;
  private iovecCount = 0;
  /** Of the bytes added last. */
  private lastAddress: Address = 0;
  /** The last message takes another datagram of this size or smaller; 0: it takes none. */
  private openSize = 0;

  /** Room for `capacity` datagrams, or messages that GRO has joined. */
  constructor(capacity: number) {
    this.capacity = capacity;
    this.single = capacity;
    this.headers = allocate((capacity + 1) * mmsghdr.size);
    this.words = this.headers.words();
    // Two for each message: a header of ours may come in front of a datagram.
    this.iovecs = allocate((2 * capacity + 1) * iovec.size);
    this.iovecWords = this.iovecs.words();
    this.name = allocate(NAME_BYTES);
    this.nameWords = this.name.words();
    this.controls = allocate((capacity + 1) * SEND_CONTROL_BYTES);
    this.controlWords = this.controls.words();
    this.firstIovec = new Int32Array(capacity);
    this.bytes = new Int32Array(capacity);
    this.headerBytes = new Int32Array(capacity);
    this.segments = new Int32Array(capacity);
  }

  /** Forgets what was there. `maySegment`: UDP_SEGMENT has not been refused on this path. */
  begin(envelope: Envelope | undefined, maySegment: boolean): void {
    this.envelope = envelope;
    // All go to the same peer: one copy of its address serves every message.
    if (envelope !== undefined) this.nameWords.set(envelope.name);
    this.maySegment = maySegment;
    this.clear();
    this.sent = 0;
    this.sentBytes = 0;
    this.dropped = 0;
    this.errno = 0;
    this.largest = 0;
    this.isSegmentRefused = false;
  }

  /** Forgets what has been added, and goes on counting. */
  clear(): void {
    this.count = 0;
    this.iovecCount = 0;
    this.openSize = 0;
  }

  /**
   * Adds the `length` bytes at `address`: one datagram, or if `segment` is not 0 as many of that
   * size as they hold, the last of which may be shorter.
   */
  add(address: Address, length: number, segment: number): void {
    const size = segment > 0 && segment < length ? segment : length;
    if (size > this.largest) this.largest = size;
    const last = this.count - 1;
    if (this.openSize > 0 && this.fits(last, length, size)) {
      this.bytes[last] = (this.bytes[last] as number) + length;
    } else this.start(length, size);
    this.addBytes(address, length);
    const joined = this.segments[this.count - 1] as number;
    this.openSize = this.maySegment && length > 0 && length % joined === 0 ? joined : 0;
  }

  /** Adds one datagram with the `headerLength` bytes at `header` in front of its own. */
  addWithHeader(header: Address, headerLength: number, address: Address, length: number): void {
    this.start(headerLength + length, headerLength + length);
    this.headerBytes[this.count - 1] = headerLength;
    this.addBytes(header, headerLength);
    this.addBytes(address, length);
    this.openSize = 0;
  }

  /**
   * Sends all to `fd`, and leaves in `sent`, `dropped` and `errno` what became of it. A datagram
   * that is refused does not keep back those behind it; a full queue drops all that is left.
   * `errno` may be an earlier ICMP error, which a connected socket returns at its next call.
   */
  send(fd: number): void {
    for (let i = 0; i < this.count; i++) this.seal(i);
    let from = 0;
    while (from < this.count) {
      const result = this.isBare ? this.sendBare(fd) : this.sendFrom(fd, from);
      if (result > 0) {
        for (let i = from; i < from + result; i++) this.note(i);
        from += result;
      } else if (result === -EAGAIN || result === -ENOBUFS) {
        // The queue is full: what is behind would find it so, too.
        for (; from < this.count; from++) this.drop(this.datagrams(from), -result);
      } else this.refused(fd, from++, -result);
    }
  }

  /** How many messages from `from` on were sent, or a negated errno. */
  private sendFrom(fd: number, from: number): Result {
    const messages = this.headers.address + from * mmsghdr.size;
    return sendMessages(fd, messages, this.count - from);
  }

  /** A single datagram in one piece, to where the socket is connected. */
  private get isBare(): boolean {
    const isSingle = this.count === 1 && this.iovecCount === 1 && this.envelope === undefined;
    return isSingle && (this.bytes[0] as number) <= (this.segments[0] as number);
  }

  /** The same as `sendFrom(fd, 0)`, with no headers for the kernel to read. */
  private sendBare(fd: number): Result {
    const length = this.bytes[0] as number;
    const result = sys.send(fd, this.lastAddress, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    return result < 0 ? result : 1;
  }

  private fits(message: number, length: number, size: number): boolean {
    const { openSize } = this;
    const bytes = (this.bytes[message] as number) + length;
    if (bytes > SEGMENTED_BYTES_MAX || Math.ceil(bytes / openSize) > SEGMENTS_MAX) return false;
    return size === openSize || (size === length && length > 0 && length < openSize);
  }

  private start(length: number, size: number): void {
    const message = this.count++;
    if (message >= this.capacity) throw new RangeError("a batch is full");
    this.firstIovec[message] = this.iovecCount;
    this.bytes[message] = length;
    this.headerBytes[message] = 0;
    this.segments[message] = size;
  }

  private addBytes(address: Address, length: number): void {
    this.lastAddress = address;
    const at = this.iovecCount++ * IOVEC_WORDS;
    setPointer(this.iovecWords, at, address);
    this.iovecWords[at + iovec.iov_len / WORD] = length;
  }

  /** How many datagrams message `index` is. */
  private datagrams(index: number): number {
    const bytes = this.bytes[index] as number;
    const size = this.segments[index] as number;
    return bytes <= size ? 1 : Math.ceil(bytes / size);
  }

  private seal(index: number): void {
    const first = this.firstIovec[index] as number;
    const next = index + 1 < this.count ? (this.firstIovec[index + 1] as number) : this.iovecCount;
    const size = this.segments[index] as number;
    const isJoined = (this.bytes[index] as number) > size;
    this.seat(index, first, next - first, isJoined ? size : 0);
  }

  /** Writes header `index`: its iovecs, the envelope, and UDP_SEGMENT if `segment` is not 0. */
  private seat(index: number, firstIovec: number, iovecs: number, segment: number): void {
    const { words, envelope, controlWords } = this;
    const header = index * HEADER_WORDS;
    setPointer(words, header + IOV, this.iovecs.address + firstIovec * iovec.size);
    words[header + IOVLEN] = iovecs;
    const control = index * SEND_CONTROL_BYTES;
    let length = 0;
    if (envelope === undefined) {
      setPointer(words, header, 0);
      words[header + NAMELEN] = 0;
    } else {
      setPointer(words, header, this.name.address);
      words[header + NAMELEN] = envelope.nameBytes;
      controlWords.set(envelope.control, control / WORD);
      length = envelope.control.length * WORD;
    }
    if (segment > 0) {
      const at = (control + length) / WORD;
      controlWords[at] = cmsghdr.size + 2;
      controlWords[at + 1] = 0;
      controlWords[at + 2] = SOL_UDP;
      controlWords[at + 3] = UDP_SEGMENT;
      controlWords[at + 4] = segment;
      length += SEGMENT_CONTROL_WORDS * WORD;
    }
    setPointer(words, header + CONTROL, length === 0 ? 0 : this.controls.address + control);
    words[header + CONTROLLEN] = length;
  }

  private note(index: number): void {
    this.sent += this.datagrams(index);
    this.sentBytes += (this.bytes[index] as number) - (this.headerBytes[index] as number);
  }

  /** The first of what was handed over is not taken. */
  private refused(fd: number, index: number, errno: number): void {
    const isJoined = this.datagrams(index) > 1;
    if (isJoined && segmentRefusals.has(errno)) {
      this.isSegmentRefused = true;
      this.sendPieces(fd, index);
      return;
    }
    // EMSGSIZE may be about one before it, by ICMP: the path's MTU is known now.
    const result = errno === EMSGSIZE ? this.sendOne(fd, index) : -errno;
    if (result < 0) this.drop(this.datagrams(index), -result);
    else this.note(index);
  }

  private sendOne(fd: number, index: number): Result {
    const header = this.headers.address + index * mmsghdr.size;
    return sendMessages(fd, header, 1);
  }

  private drop(datagrams: number, errno: number): void {
    this.dropped += datagrams;
    if (this.errno === 0) this.errno = errno;
  }

  /** Sends the datagrams of a message one by one: each lies in one iovec. */
  private sendPieces(fd: number, index: number): void {
    const size = this.segments[index] as number;
    const next = index + 1 < this.count ? (this.firstIovec[index + 1] as number) : this.iovecCount;
    for (let i = this.firstIovec[index] as number; i < next; i++) {
      const at = i * IOVEC_WORDS;
      const length = this.iovecWords[at + iovec.iov_len / WORD] as number;
      const low = this.iovecWords[at] as number;
      const base = (this.iovecWords[at + 1] as number) * 0x1_0000_0000 + low;
      for (let done = 0; done < length; done += size) {
        this.sendPiece(fd, base + done, Math.min(size, length - done));
      }
    }
  }

  private sendPiece(fd: number, address: Address, length: number): void {
    const spare = 2 * this.capacity;
    setPointer(this.iovecWords, spare * IOVEC_WORDS, address);
    this.iovecWords[spare * IOVEC_WORDS + iovec.iov_len / WORD] = length;
    this.seat(this.single, spare, 1, 0);
    const result = this.sendOne(fd, this.single);
    this.tally(result < 0 ? result : length);
  }

  /** Counts a datagram that was sent by itself: `result` is its bytes, or a negated errno. */
  tally(result: Result): void {
    if (result < 0) return this.drop(1, -result);
    this.sent++;
    this.sentBytes += result;
  }
}
