/**
 * Attributes of netlink read where they are, one after the other: for messages of which thousands
 * come a second. `Attributes` of wire.ts is for all others. Pure.
 */

import { align4, HOST_ORDER, NETWORK_ORDER, NLA_TYPE_MASK, nlattr, WireError } from "./wire.ts";

/** Is on no attribute until `next` was called. What it reads is of the attribute that it is on. */
export class AttributeCursor {
  /** Without the NLA_F_ bits. */
  type = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #next: number;
  readonly #end: number;
  #start = 0;
  #size = 0;

  /** Over the attributes in `bytes` from `from` to `to`; `view` is of the same bytes. */
  constructor(bytes: Uint8Array, view: DataView, from: number, to: number) {
    if (from > to) throw new WireError(`${to} bytes where ${from} are due`);
    this.#bytes = bytes;
    this.#view = view;
    this.#next = from;
    this.#end = to;
  }

  /**
   * Goes on to the next attribute; false: there is none.
   * @throws WireError when its length does not fit
   */
  next(): boolean {
    const at = this.#next;
    const rest = this.#end - at;
    if (rest <= 0) return false;
    const length = rest < nlattr.size ? 0 : this.#view.getUint16(at + nlattr.nla_len, HOST_ORDER);
    if (length < nlattr.size || length > rest) {
      throw new WireError(`attribute length ${length} in ${rest} bytes`);
    }
    this.type = this.#view.getUint16(at + nlattr.nla_type, HOST_ORDER) & NLA_TYPE_MASK;
    this.#start = at + nlattr.size;
    this.#size = length - nlattr.size;
    this.#next = at + align4(length);
    return true;
  }

  /** Over the attributes that this one holds. */
  nested(): AttributeCursor {
    const start = this.#start;
    return new AttributeCursor(this.#bytes, this.#view, start, start + this.#size);
  }

  u8(): number {
    return this.#view.getUint8(this.#scalar(1));
  }

  be16(): number {
    return this.#view.getUint16(this.#scalar(2), NETWORK_ORDER);
  }

  be32(): number {
    return this.#view.getUint32(this.#scalar(4), NETWORK_ORDER);
  }

  be64(): bigint {
    return this.#view.getBigUint64(this.#scalar(8), NETWORK_ORDER);
  }

  /** A copy of the payload. */
  bytes(): Uint8Array {
    return this.#bytes.slice(this.#start, this.#start + this.#size);
  }

  /** A copy of an IP address: 4 or 16 bytes. */
  address(): Uint8Array {
    if (this.#size === 4 || this.#size === 16) return this.bytes();
    throw new WireError(`attribute ${this.type}: address of ${this.#size} bytes`);
  }

  #scalar(size: number): number {
    if (this.#size === size) return this.#start;
    throw new WireError(`attribute ${this.type}: ${this.#size} bytes where ${size} are due`);
  }
}
