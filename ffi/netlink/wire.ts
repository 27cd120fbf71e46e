/**
 * Netlink's wire format: messages and attributes. Pure: bytes in, bytes out.
 *
 * Headers and rtnetlink's integers are in host order, which is little endian on x86_64 and
 * aarch64; nf_tables' are big endian (`be32`, `be64`). Messages and attributes are aligned to 4.
 * Sources: netlink(7), linux/netlink.h, Documentation/userspace-api/netlink/intro.rst.
 */

/** `struct nlmsghdr` (linux/netlink.h). */
export const nlmsghdr = {
  size: 16,
  nlmsg_len: 0,
  nlmsg_type: 4,
  nlmsg_flags: 6,
  nlmsg_seq: 8,
  nlmsg_pid: 12,
} as const;

/** `struct nlattr`: its length counts itself and the payload, not the padding. */
export const nlattr = { size: 4, nla_len: 0, nla_type: 2 } as const;

/** NLA_TYPE_MASK: an attribute's type without NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
export const NLA_TYPE_MASK = ~0xc000;

/** For DataView: the order of headers and of rtnetlink. */
export const HOST_ORDER = true;
/** For DataView: the order of nf_tables, ports and addresses. */
export const NETWORK_ORDER = false;

/** `NLMSG_ALIGN`, `NLA_ALIGN`. Arithmetic and not bits: lengths are unsigned 32-bit. */
export const align4 = (length: number) => Math.ceil(length / 4) * 4;

/** A request to the kernel: everything but the header's sequence number and port. */
export interface Message {
  /** The operation's name in the header's spelling, for errors: `RTM_NEWROUTE`. */
  readonly operation: string;
  readonly type: number;
  /** NLM_F_*, without NLM_F_REQUEST and NLM_F_ACK, which the socket adds. */
  readonly flags: number;
  /** The family's struct and the attributes, owned by the message. */
  readonly body: Uint8Array;
}

/** A message as it was received. `body` is a view of the bytes it was read from. */
export interface ReceivedMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly portId: number;
  readonly body: Uint8Array;
}

/** Bytes that are not the netlink they should be. What the decoders of this folder throw. */
export class WireError extends Error {
  override readonly name = "WireError";
}

/** Writes structs and attributes into a buffer that grows. The writer owns it. */
export class Writer {
  #bytes = new Uint8Array(new ArrayBuffer(256));
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** A copy of what was written. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }

  /**
   * Appends `size` zeroed bytes, padded to 4, and returns a view of them to fill in at once: the
   * next write may move the buffer.
   */
  struct(size: number): DataView {
    const at = this.#reserve(size);
    return new DataView(this.#bytes.buffer, at, size);
  }

  /** Appends bytes as they are, padded to 4. */
  raw(bytes: Uint8Array): void {
    const at = this.#reserve(bytes.length);
    this.#bytes.set(bytes, at);
  }

  u8(type: number, value: number): void {
    const at = this.#attribute(type, 1);
    this.#view.setUint8(at, value);
  }

  u16(type: number, value: number): void {
    const at = this.#attribute(type, 2);
    this.#view.setUint16(at, value, HOST_ORDER);
  }

  /** A 32-bit integer in host order; negative values are written in two's complement. */
  u32(type: number, value: number): void {
    const at = this.#attribute(type, 4);
    this.#view.setUint32(at, value, HOST_ORDER);
  }

  be16(type: number, value: number): void {
    const at = this.#attribute(type, 2);
    this.#view.setUint16(at, value, NETWORK_ORDER);
  }

  /** A 32-bit integer in network order; negative values are written in two's complement. */
  be32(type: number, value: number): void {
    const at = this.#attribute(type, 4);
    this.#view.setUint32(at, value, NETWORK_ORDER);
  }

  be64(type: number, value: bigint): void {
    const at = this.#attribute(type, 8);
    this.#view.setBigUint64(at, value, NETWORK_ORDER);
  }

  bytes(type: number, value: Uint8Array): void {
    const at = this.#attribute(type, value.length);
    this.#bytes.set(value, at);
  }

  /** UTF-8 with a final NUL. */
  cstring(type: number, value: string): void {
    if (value.includes("\0"))
      throw new RangeError(`NUL in netlink string ${JSON.stringify(value)}`);
    this.bytes(type, new TextEncoder().encode(`${value}\0`));
  }

  /** An attribute that holds what `write` writes. Pass NLA_F_NESTED in `type` where it is due. */
  nest(type: number, write: () => void): void {
    const at = this.open(type);
    write();
    this.close(at);
  }

  /** Begins an attribute that holds what is written until `close`, which takes the result. */
  open(type: number): number {
    return this.#attribute(type, 0) - nlattr.size;
  }

  /** Ends the attribute that began at `at`. */
  close(at: number): void {
    const length = this.#length - at;
    if (length > 0xffff) throw new RangeError(`netlink attribute of ${length} bytes`);
    this.#view.setUint16(at + nlattr.nla_len, length, HOST_ORDER);
  }

  /** Appends an attribute's header and `size` zeroed bytes; returns where the payload begins. */
  #attribute(type: number, size: number): number {
    const length = nlattr.size + size;
    if (length > 0xffff) throw new RangeError(`netlink attribute of ${length} bytes`);
    const at = this.#reserve(length);
    this.#view.setUint16(at + nlattr.nla_len, length, HOST_ORDER);
    this.#view.setUint16(at + nlattr.nla_type, type, HOST_ORDER);
    return at + nlattr.size;
  }

  #reserve(size: number): number {
    const at = this.#length;
    const end = at + align4(size);
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(new ArrayBuffer(Math.max(end, 2 * this.#bytes.length)));
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = end;
    return at;
  }
}

/** A request whose body is what `write` writes. */
export function message(
  operation: string,
  type: number,
  flags: number,
  write: (to: Writer) => void,
): Message {
  const writer = new Writer();
  write(writer);
  return { operation, type, flags, body: writer.finish() };
}

/** The bytes of one message with its header. The kernel fills in the port of `portId` 0. */
export function frame(
  { type, flags, body }: Message,
  addedFlags: number,
  sequence: number,
  portId = 0,
): Uint8Array<ArrayBuffer> {
  const length = nlmsghdr.size + body.length;
  const bytes = new Uint8Array(new ArrayBuffer(align4(length)));
  const view = new DataView(bytes.buffer);
  view.setUint32(nlmsghdr.nlmsg_len, length, HOST_ORDER);
  view.setUint16(nlmsghdr.nlmsg_type, type, HOST_ORDER);
  view.setUint16(nlmsghdr.nlmsg_flags, flags | addedFlags, HOST_ORDER);
  view.setUint32(nlmsghdr.nlmsg_seq, sequence, HOST_ORDER);
  view.setUint32(nlmsghdr.nlmsg_pid, portId, HOST_ORDER);
  bytes.set(body, nlmsghdr.size);
  return bytes;
}

/**
 * The messages in what one `recv` gave. Their bodies are views of `bytes`.
 * @throws WireError when a header or a length does not fit.
 */
export function parseMessages(bytes: Uint8Array): ReceivedMessage[] {
  const view = viewOf(bytes);
  const messages: ReceivedMessage[] = [];
  for (let at = 0; at < bytes.length; ) {
    const rest = bytes.length - at;
    if (rest < nlmsghdr.size) throw new WireError(`${rest} bytes where a message header is due`);
    const length = view.getUint32(at + nlmsghdr.nlmsg_len, HOST_ORDER);
    if (length < nlmsghdr.size || length > rest) {
      throw new WireError(`message length ${length} in ${rest} bytes`);
    }
    messages.push({
      type: view.getUint16(at + nlmsghdr.nlmsg_type, HOST_ORDER),
      flags: view.getUint16(at + nlmsghdr.nlmsg_flags, HOST_ORDER),
      sequence: view.getUint32(at + nlmsghdr.nlmsg_seq, HOST_ORDER),
      portId: view.getUint32(at + nlmsghdr.nlmsg_pid, HOST_ORDER),
      body: bytes.subarray(at + nlmsghdr.size, at + length),
    });
    at += align4(length);
  }
  return messages;
}

/** One attribute: its type without the NLA_F_ bits, and a view of its payload. */
export interface Attribute {
  readonly type: number;
  readonly payload: Uint8Array;
}

/**
 * The attributes in `bytes` from `offset`, in their order.
 * @throws WireError when a length does not fit.
 */
function parseAttributes(bytes: Uint8Array, offset = 0): Attribute[] {
  if (offset > bytes.length) throw new WireError(`${bytes.length} bytes where ${offset} are due`);
  const view = viewOf(bytes);
  const attributes: Attribute[] = [];
  for (let at = offset; at < bytes.length; ) {
    const rest = bytes.length - at;
    const length = rest < nlattr.size ? 0 : view.getUint16(at + nlattr.nla_len, HOST_ORDER);
    if (length < nlattr.size || length > rest) {
      throw new WireError(`attribute length ${length} in ${rest} bytes`);
    }
    attributes.push({
      type: view.getUint16(at + nlattr.nla_type, HOST_ORDER) & NLA_TYPE_MASK,
      payload: bytes.subarray(at + nlattr.size, at + length),
    });
    at += align4(length);
  }
  return attributes;
}

/**
 * Attributes by type, read as what they should be. Every getter returns undefined when the
 * attribute is absent and throws WireError when its length is wrong; `required` turns the former
 * into the latter. The last of several attributes of one type counts, as in the kernel.
 */
export class Attributes {
  readonly #byType = new Map<number, Uint8Array>();

  /** @throws WireError when a length does not fit. */
  constructor(bytes: Uint8Array, offset = 0) {
    for (const { type, payload } of parseAttributes(bytes, offset)) {
      this.#byType.set(type, payload);
    }
  }

  has(type: number): boolean {
    return this.#byType.has(type);
  }

  u8(type: number): number | undefined {
    return this.#scalar(type, 1)?.getUint8(0);
  }

  u16(type: number): number | undefined {
    return this.#scalar(type, 2)?.getUint16(0, HOST_ORDER);
  }

  u32(type: number): number | undefined {
    return this.#scalar(type, 4)?.getUint32(0, HOST_ORDER);
  }

  be16(type: number): number | undefined {
    return this.#scalar(type, 2)?.getUint16(0, NETWORK_ORDER);
  }

  be32(type: number): number | undefined {
    return this.#scalar(type, 4)?.getUint32(0, NETWORK_ORDER);
  }

  /** A 32-bit integer in network order, signed. */
  signed32(type: number): number | undefined {
    return this.#scalar(type, 4)?.getInt32(0, NETWORK_ORDER);
  }

  be64(type: number): bigint | undefined {
    return this.#scalar(type, 8)?.getBigUint64(0, NETWORK_ORDER);
  }

  /** A copy of the payload. */
  bytes(type: number): Uint8Array | undefined {
    return this.#byType.get(type)?.slice();
  }

  /** A copy of an IP address: 4 or 16 bytes. */
  address(type: number): Uint8Array | undefined {
    const bytes = this.bytes(type);
    if (bytes === undefined || bytes.length === 4 || bytes.length === 16) return bytes;
    throw new WireError(`attribute ${type}: address of ${bytes.length} bytes`);
  }

  /** A string up to its first NUL or the end. Bytes that are not UTF-8 become U+FFFD. */
  string(type: number): string | undefined {
    const bytes = this.#byType.get(type);
    return bytes && decodeCString(bytes);
  }

  nested(type: number): Attributes | undefined {
    const bytes = this.#byType.get(type);
    return bytes && new Attributes(bytes);
  }

  /** A nested attribute whose members are a list, in their order. */
  list(type: number): Attribute[] {
    const bytes = this.#byType.get(type);
    return bytes === undefined ? [] : parseAttributes(bytes);
  }

  #scalar(type: number, size: number): DataView | undefined {
    const bytes = this.#byType.get(type);
    if (bytes === undefined) return undefined;
    if (bytes.length !== size) {
      throw new WireError(`attribute ${type}: ${bytes.length} bytes where ${size} are due`);
    }
    return viewOf(bytes);
  }
}

/** @throws WireError when `value` is undefined. */
export function required<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new WireError(`no ${name}`);
  return value;
}

/**
 * A view of the struct at the start of a message's body.
 * @throws WireError when the body is shorter than `size`.
 */
export function structOf(body: Uint8Array, size: number): DataView {
  if (body.length < size) throw new WireError(`${body.length} bytes where ${size} are due`);
  return new DataView(body.buffer, body.byteOffset, size);
}

/** The text of a NUL-terminated or unterminated string. */
export function decodeCString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(
    end < 0 ? bytes : bytes.subarray(0, end),
  );
}

/** The object without its undefined members: what is absent leaves no trace in a decoded value. */
export function defined<const T extends object>(
  object: T,
): { [Key in keyof T as undefined extends T[Key] ? never : Key]: T[Key] } & {
  [Key in keyof T as undefined extends T[Key] ? Key : never]?: Exclude<T[Key], undefined>;
} {
  const entries = Object.entries(object).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as never;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
