/**
 * The header of the PROXY protocol in front of a datagram, read where it lies: some senders put it
 * in front of every datagram, others in front of the first one that each of their sockets sends.
 */

import { type PassedOn, type ProxyAddresses, plainHeader } from "./proxy-header.ts";
import { decodeProxyV1 } from "./proxy-protocol-v1.ts";
import { isSigned, ProxyV2Reader } from "./proxy-protocol-v2.ts";

/** With one of these a line of version 1 begins. */
const OPENINGS = ["PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN"].map((text) =>
  new TextEncoder().encode(text),
);

/** As far as a line of version 1 is looked for. */
const LINE_BYTES = 108;

/** Reads one header after the other. The fields keep the last one until the next call. */
export class DatagramHeader {
  /** Of the header; what is behind them is the datagram. */
  length = 0;
  /** Bytes of each of its two addresses, which begin at `addressesAt`; 0: it is no such header. */
  addressBytes: 0 | 4 | 16 = 0;
  addressesAt = 0;
  /** The contents of a version 1 line. Without either, the datagram's own addresses count. */
  ends: ProxyAddresses | undefined;
  /**
   * The parts of a version 1 line for the next proxy; those of version 2 are decoded on request.
   */
  private isLine = false;
  private linePassed = plainHeader;
  /** Why a header is rejected: one of a few fixed texts. */
  error = "";
  private readonly reader = new ProxyV2Reader();

  /**
   * Looks at the datagram from `from` to `end`. It has no header, one, or what began as one and is
   * none. Nothing is allocated but for version 1, which nginx sends (as if for TCP) with the first
   * datagram of each socket.
   */
  read(bytes: Uint8Array, from: number, end: number): "none" | "header" | "broken" {
    if (isSigned(bytes, from, end)) return this.readSigned(bytes, from, end);
    if (isLine(bytes, from, end)) {
      return this.readLine(bytes.subarray(from, Math.min(end, from + LINE_BYTES)));
    }
    return "none";
  }

  /** The parts for the next proxy of the last header, which began at `from`; a copy. */
  passed(bytes: Uint8Array, from: number): PassedOn {
    return this.isLine ? this.linePassed : this.reader.passed(bytes, from);
  }

  private readSigned(bytes: Uint8Array, from: number, end: number): "header" | "broken" {
    const { reader } = this;
    const result = reader.read(bytes, from, end);
    if (result === "more") return this.broken("it is cut off");
    if (result === "error") return this.broken(reader.error);
    if (reader.addressBytes > 0 && reader.protocol === "tcp") {
      return this.broken("it is that of a connection");
    }
    this.length = reader.length;
    this.addressBytes = reader.addressBytes;
    this.addressesAt = reader.addressesAt;
    this.ends = undefined;
    this.isLine = false;
    return "header";
  }

  private readLine(line: Uint8Array): "header" | "broken" {
    const result = decodeProxyV1(line);
    if (result.kind === "more") return this.broken("it is cut off");
    if (result.kind === "error") return this.broken("it is no line of version 1");
    const { source, destination, passed } = result.header;
    this.isLine = true;
    this.linePassed = passed;
    this.length = result.length;
    this.addressBytes = 0;
    this.ends = source && destination && { source, destination };
    return "header";
  }

  private broken(error: string): "broken" {
    this.error = error;
    return "broken";
  }
}

function isLine(bytes: Uint8Array, from: number, end: number): boolean {
  for (const opening of OPENINGS) if (begins(bytes, from, end, opening)) return true;
  return false;
}

function begins(bytes: Uint8Array, from: number, end: number, opening: Uint8Array): boolean {
  if (end - from < opening.length) return false;
  for (let i = 0; i < opening.length; i++) if (bytes[from + i] !== opening[i]) return false;
  return true;
}
