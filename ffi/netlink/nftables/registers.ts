/** Numbers as registers and the keys of sets hold them. Pure. */

import { HOST_ORDER, NETWORK_ORDER } from "../wire.ts";

/** A port. */
export function networkOrder16(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(2));
  view.setUint16(0, value, NETWORK_ORDER);
  return new Uint8Array(view.buffer);
}

/** A mark, a uid, an index of an interface, a type of address; negative in two's complement. */
export function hostOrder32(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, HOST_ORDER);
  return new Uint8Array(view.buffer);
}

/** The number of a control group. */
export function hostOrder64(value: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, value, HOST_ORDER);
  return new Uint8Array(view.buffer);
}

/** The reverse of `hostOrder32`. @throws RangeError for less than 4 bytes */
export function fromHostOrder32(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(0, HOST_ORDER);
}
