/**
 * The one allocator of memory that C sees.
 *
 * Two traps of `ptr()` make this necessary. The storage of a small typed array moves when it is
 * first asked for its `.buffer`, so every buffer here is made on an ArrayBuffer of its own. And an
 * array that is used only through its address is collected, so every buffer is held for life in
 * `held`. Buffers are therefore made at start and reused, never per connection.
 */

import { ptr } from "bun:ffi";
import type { Address } from "./types.ts";

/** A fixed block of native memory: its bytes, a view on them and its address. */
export class NativeBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  readonly address: Address;

  /** Use `allocate`: a buffer that is not registered may be collected while the kernel writes. */
  constructor(size: number) {
    const storage = new ArrayBuffer(size);
    this.bytes = new Uint8Array(storage);
    this.view = new DataView(storage);
    this.address = ptr(this.bytes);
  }

  get size(): number {
    return this.bytes.length;
  }

  /** The same memory as 32-bit words, for a size that is a multiple of 4. */
  words(): Uint32Array {
    return new Uint32Array(this.bytes.buffer);
  }
}

const held: NativeBuffer[] = [];

/**
 * A zeroed buffer of `size` bytes (at least 1) that lives as long as its thread and never moves.
 * Owned by the caller, who may pass its address to the kernel at any time.
 */
export function allocate(size: number): NativeBuffer {
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`buffer size ${size}`);
  const buffer = new NativeBuffer(size);
  held.push(buffer);
  return buffer;
}

/** Writes an address as the two words of a pointer at word `at`. */
export function setPointer(words: Uint32Array, at: number, address: Address): void {
  words[at] = address >>> 0;
  words[at + 1] = address / 0x1_0000_0000;
}

/** How many buffers and bytes this thread has allocated: for tests that look for growth. */
export function allocated(): { buffers: number; bytes: number } {
  let bytes = 0;
  for (const buffer of held) bytes += buffer.size;
  return { buffers: held.length, bytes };
}
