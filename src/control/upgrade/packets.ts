/**
 * Messages of an upgrade as packets of a SOCK_SEQPACKET socket: JSON, cut where it is too long for
 * one packet or has more descriptors than one may carry. Each packet is acknowledged before the
 * next one is sent, so that the kernel never holds more descriptors than it lets one user have.
 * Pure.
 */

/** What one packet may carry. */
export interface PacketBounds {
  readonly bytes: number;
  readonly descriptors: number;
}

export interface Packet {
  readonly bytes: Uint8Array;
  readonly descriptors: readonly number[];
}

/** A message as it was sent, parsed, with its descriptors. */
export interface Assembled {
  readonly value: unknown;
  readonly descriptors: readonly number[];
}

/** The first byte of a packet. */
const MORE = 1;
const LAST = 2;
const ACKNOWLEDGED = 3;

/** More than any message has; a peer that sends more is none of ours. */
const messageBytesMax = 64 * 1024 * 1024;

export const acknowledgement: Packet = {
  bytes: Uint8Array.of(ACKNOWLEDGED),
  descriptors: [],
};

/** The packets of a message, at least one. */
export function packetsOf(
  value: unknown,
  descriptors: readonly number[],
  bounds: PacketBounds,
): Packet[] {
  const text = new TextEncoder().encode(JSON.stringify(value));
  const room = bounds.bytes - 1;
  const count = Math.max(
    1,
    Math.ceil(text.length / room),
    Math.ceil(descriptors.length / bounds.descriptors),
  );
  return Array.from({ length: count }, (_, index) => {
    const part = text.subarray(index * room, (index + 1) * room);
    const bytes = new Uint8Array(part.length + 1);
    bytes[0] = index === count - 1 ? LAST : MORE;
    bytes.set(part, 1);
    const { descriptors: most } = bounds;
    return { bytes, descriptors: descriptors.slice(index * most, (index + 1) * most) };
  });
}

/** A packet as two smaller ones, with its descriptors in the first; undefined: it has one byte. */
export function halvesOf({ bytes, descriptors }: Packet): [Packet, Packet] | undefined {
  if (bytes.length < 3) return undefined;
  const middle = Math.ceil(bytes.length / 2);
  const first = bytes.slice(0, middle);
  first[0] = MORE;
  const second = bytes.slice(middle - 1);
  second[0] = bytes[0] as number;
  return [
    { bytes: first, descriptors },
    { bytes: second, descriptors: [] },
  ];
}

/** What a packet means to its receiver. */
export type Arrived =
  | { readonly kind: "acknowledgement" }
  | { readonly kind: "part" }
  | { readonly kind: "message"; readonly message: Assembled }
  | { readonly kind: "fault"; readonly reason: string };

/** Puts the packets of messages together. */
export class Assembler {
  private parts: Uint8Array[] = [];
  private size = 0;
  private descriptors: number[] = [];

  /** Descriptors of a message that is never whole: they are the caller's to close. */
  get unclaimed(): readonly number[] {
    return this.descriptors;
  }

  take({ bytes, descriptors }: Packet): Arrived {
    this.descriptors.push(...descriptors);
    const [kind] = bytes;
    if (kind === ACKNOWLEDGED && bytes.length === 1) return { kind: "acknowledgement" };
    if (kind !== MORE && kind !== LAST) return { kind: "fault", reason: "an unknown packet" };
    this.size += bytes.length;
    if (this.size > messageBytesMax) return { kind: "fault", reason: "a message without an end" };
    this.parts.push(bytes.subarray(1));
    return kind === MORE ? { kind: "part" } : this.assemble();
  }

  private assemble(): Arrived {
    const text = new TextDecoder().decode(Buffer.concat(this.parts));
    const { descriptors } = this;
    this.parts = [];
    this.size = 0;
    try {
      const value: unknown = JSON.parse(text);
      this.descriptors = [];
      return { kind: "message", message: { value, descriptors } };
    } catch {
      return { kind: "fault", reason: "a message that is no JSON" };
    }
  }
}
