/**
 * `struct epoll_event` arrays. The 64-bit user data of an event carries two 32-bit numbers here:
 * the descriptor and its generation, so that an event for a closed descriptor whose number has
 * been given to a new one is known as stale.
 */

import { epollEventLayout } from "./layout.ts";
import { allocate } from "./memory.ts";
import type { Address } from "./types.ts";

/** Events as `epoll_wait` writes them; word-indexed, since all fields lie on 4-byte bounds. */
export class EpollEvents {
  readonly capacity: number;
  readonly address: Address;
  private readonly words: Uint32Array;
  private readonly stride: number;
  private readonly data: number;

  /** Room for `capacity` events in the layout of `arch` (Node's name of it). */
  constructor(capacity: number, arch: string = process.arch) {
    const layout = epollEventLayout(arch);
    const buffer = allocate(capacity * layout.size);
    this.capacity = capacity;
    this.address = buffer.address;
    this.words = new Uint32Array(buffer.bytes.buffer);
    this.stride = layout.size / 4;
    this.data = layout.data / 4;
  }

  /** The EPOLL* bits of event `index`. */
  mask(index: number): number {
    return this.words[index * this.stride] as number;
  }

  /** The descriptor that event `index` was registered with. */
  fd(index: number): number {
    return this.words[index * this.stride + this.data] as number;
  }

  /** The generation that event `index` was registered with. */
  generation(index: number): number {
    return this.words[index * this.stride + this.data + 1] as number;
  }

  /** Writes event `index`, as `epoll_ctl` reads it. */
  set(index: number, mask: number, fd: number, generation: number): void {
    const at = index * this.stride;
    this.words[at] = mask;
    this.words[at + this.data] = fd;
    this.words[at + this.data + 1] = generation;
  }
}
