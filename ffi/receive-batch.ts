/**
 * Many datagrams with one `recvmmsg(2)`, into memory from which they are sent on: nothing is copied
 * here, and nothing is allocated after the constructors.
 *
 * With UDP_GRO the kernel hands over several datagrams of one flow as one message, and says the
 * size of each but the last.
 */

import { ReceivedControls } from "./cmsg.ts";
import { MSG_DONTWAIT } from "./constants.ts";
import { iovec, mmsghdr } from "./layout.ts";
import { allocate, type NativeBuffer, setPointer } from "./memory.ts";
import { messageWords } from "./message-words.ts";
import { refused } from "./refused-calls.ts";
import * as sys from "./sys.ts";
import type { Address, Result } from "./types.ts";

const {
  CONTROL,
  CONTROLLEN,
  HEADER_WORDS,
  IOV,
  IOVEC_WORDS,
  IOVLEN,
  LENGTH,
  NAME_BYTES,
  NAMELEN,
  WORD,
} = messageWords;

const NAME_WORDS = NAME_BYTES / WORD;

/** Control data of a received datagram: its original destination, GRO's size, and more. */
const CONTROL_BYTES = 160;
const CONTROL_WORDS = CONTROL_BYTES / WORD;

/**
 * The most of one message: what GRO joins never exceeds 64 KiB. Slots begin at different cache
 * sets, since the first bytes of each are what is touched most.
 */
const SLOT_BYTES = 65_536;
const SLOT_STRIDE = SLOT_BYTES + 128;

/** The memory that datagrams are received into: `count` slots for one datagram, or one of GRO's. */
export class PayloadSlots {
  readonly count: number;
  readonly buffer: NativeBuffer;

  constructor(count: number) {
    this.count = count;
    this.buffer = allocate(count * SLOT_STRIDE);
  }

  /** Where slot `index` begins in `buffer`. */
  offset(index: number): number {
    return index * SLOT_STRIDE;
  }

  /** Where slot `index` is for C. */
  address(index: number): Address {
    return this.buffer.address + index * SLOT_STRIDE;
  }
}

/** The buffers that `recvmmsg` fills. Valid until the next `receive` into the same slots. */
export class ReceiveBatch {
  readonly slots: PayloadSlots;
  /** The senders' socket addresses (struct sockaddr_in or sockaddr_in6); `nameAt` finds one. */
  readonly names: Uint32Array;
  /** The control messages. */
  readonly controls: Uint32Array;
  private readonly headers: NativeBuffer;
  private readonly words: Uint32Array;
  private readonly isNamed: boolean;
  private readonly told: ReceivedControls;
  /** By message: bytes at its start that are not its datagram's (`trim`). */
  private readonly trimmed: Int32Array;
  /** Messages whose lengths the kernel has overwritten since they were last set. */
  private used: number;

  /** `named`: the sender of each datagram is asked for, as for sockets that are not connected. */
  constructor(slots: PayloadSlots, named: boolean) {
    this.slots = slots;
    this.isNamed = named;
    const { count } = slots;
    this.told = new ReceivedControls(count);
    this.trimmed = new Int32Array(count);
    this.headers = allocate(count * mmsghdr.size);
    this.words = this.headers.words();
    const iovecs = allocate(count * iovec.size);
    const iovecWords = iovecs.words();
    const names = allocate(count * NAME_BYTES);
    const controls = allocate(count * CONTROL_BYTES);
    this.names = names.words();
    this.controls = controls.words();
    for (let i = 0; i < count; i++) {
      setPointer(iovecWords, i * IOVEC_WORDS, slots.address(i));
      iovecWords[i * IOVEC_WORDS + iovec.iov_len / WORD] = SLOT_BYTES;
      const header = i * HEADER_WORDS;
      if (named) setPointer(this.words, header, names.address + i * NAME_BYTES);
      setPointer(this.words, header + IOV, iovecs.address + i * iovec.size);
      this.words[header + IOVLEN] = 1;
      setPointer(this.words, header + CONTROL, controls.address + i * CONTROL_BYTES);
    }
    this.used = count;
  }

  get capacity(): number {
    return this.slots.count;
  }

  /** Takes up to `capacity` queued messages of `fd`, or returns a negated errno. */
  receive(fd: number): Result {
    const { words } = this;
    for (let i = 0; i < this.used; i++) {
      const header = i * HEADER_WORDS;
      if (this.isNamed) words[header + NAMELEN] = NAME_BYTES;
      words[header + CONTROLLEN] = CONTROL_BYTES;
    }
    const { address } = this.headers;
    const count =
      refused.recvmmsg === 0
        ? sys.recvmmsg(fd, address, this.capacity, MSG_DONTWAIT)
        : this.receiveSingly(fd, address);
    this.used = Math.max(count, 0);
    for (let i = 0; i < count; i++) {
      const length = words[i * HEADER_WORDS + CONTROLLEN] as number;
      this.told.read(i, this.controls, i * CONTROL_WORDS, length);
    }
    return count;
  }

  /** The same with a call for each message: an error behind some of them comes up again. */
  private receiveSingly(fd: number, address: Address): Result {
    for (let i = 0; i < this.capacity; i++) {
      const bytes = sys.recvmsg(fd, address + i * mmsghdr.size, MSG_DONTWAIT);
      if (bytes < 0) return i > 0 ? i : bytes;
      this.words[i * HEADER_WORDS + LENGTH] = bytes;
    }
    return this.capacity;
  }

  /** Bytes of message `index`. A slot has room for the largest there can be. */
  length(index: number): number {
    return (this.words[index * HEADER_WORDS + LENGTH] as number) - (this.trimmed[index] as number);
  }

  /** Where message `index` begins for C. */
  address(index: number): Address {
    return this.slots.address(index) + (this.trimmed[index] as number);
  }

  /**
   * Takes the first `bytes` away from message `index`, until it is called anew. A caller that
   * uses this calls it for every message.
   */
  trim(index: number, bytes: number): void {
    this.trimmed[index] = bytes;
  }

  /** The size of each datagram but the last that GRO has joined in message `index`; 0: none. */
  segment(index: number): number {
    return this.told.segments[index] as number;
  }

  /**
   * The TTL or hop limit with which message `index` has arrived; 0: the kernel did not report it.
   */
  hopLimit(index: number): number {
    return this.told.hopLimits[index] as number;
  }

  /** The word of `names` at which the sender of message `index` begins. */
  nameAt(index: number): number {
    return index * NAME_WORDS;
  }

  /**
   * The word of `controls` at which the original destination of message `index` begins, a struct
   * sockaddr_in or sockaddr_in6; -1 if the kernel did not report it.
   */
  destinationAt(index: number): number {
    return this.told.destinations[index] as number;
  }
}
