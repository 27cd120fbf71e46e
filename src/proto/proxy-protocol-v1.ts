/** Version 1 of the PROXY protocol: one line of text (proxy-protocol.txt, section 2.1). */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { type Family, formatBytes, parseAddress } from "../net/address.ts";
import { parsePort } from "../net/port.ts";
import { quote } from "../net/result.ts";
import {
  decoded,
  failed,
  more,
  ofOneFamily,
  type ProxyAddresses,
  type ProxyDecoding,
  socketAddress,
} from "./proxy-header.ts";

/** With its CRLF: `PROXY UNKNOWN`, two IPv6 addresses and two ports of full length. */
const LINE_BYTES_MAX = 107;

const TCP4 = "PROXY TCP4 ";
const TCP6 = "PROXY TCP6 ";
const UNKNOWN = "PROXY UNKNOWN\r\n";
const OPENINGS = [TCP4, TCP6, UNKNOWN, "PROXY UNKNOWN "];

/** Reads a header of version 1 from the bytes of a connection so far, see `decodeProxyHeader`. */
export function decodeProxyV1(bytes: Uint8Array): ProxyDecoding {
  const text = String.fromCharCode(...bytes.subarray(0, LINE_BYTES_MAX));
  const opening = OPENINGS.find((each) => text.startsWith(each));
  if (opening === TCP4) return decodeLine(text, opening.length, 4);
  if (opening === TCP6) return decodeLine(text, opening.length, 6);
  if (opening === undefined) {
    const isBegun = OPENINGS.some((each) => each.startsWith(text));
    return isBegun ? more : failed(`the connection starts with ${quote(text)}`);
  }
  // The receiver must ignore the rest of an UNKNOWN line up to the CRLF.
  const end = text.indexOf("\r\n");
  return end < 0 ? unended(text) : decoded(end + 2);
}

/** Reads the two addresses and two ports at `start`, and the CRLF. */
function decodeLine(text: string, start: number, family: Family): ProxyDecoding {
  const cr = text.indexOf("\r", start);
  const isEnded = cr >= 0;
  const fields = text.slice(start, isEnded ? cr : undefined).split(" ");
  if (fields.length > 4) return failed(`${quote(fields[4] as string)} where CRLF ends the line`);
  const addresses: Uint8Array[] = [];
  const ports: number[] = [];
  for (const [i, field] of fields.entries()) {
    const isWhole = isEnded || i < fields.length - 1;
    if (i < 2) {
      const address = readAddress(field, family);
      if (address !== undefined) addresses.push(address);
      else if (isWhole || !beginsAddress(field, family)) {
        return failed(`${quote(field)} is not an IPv${family} address`);
      }
    } else {
      // The prefix of a valid port is a valid port.
      const port = parsePort(field, { zero: true });
      if (port.ok) ports.push(port.value);
      else if (isWhole || field !== "") return failed(`${quote(field)} is not a port`);
    }
  }
  if (!isEnded) return unended(text);
  const [source, destination] = addresses;
  const [sourcePort, destinationPort] = ports;
  if (source === undefined || destination === undefined) return failed("an address is missing");
  if (sourcePort === undefined || destinationPort === undefined) return failed("a port is missing");
  if (cr + 1 === text.length) return unended(text);
  if (text[cr + 1] !== "\n") return failed("a CR without its LF");
  const ends = {
    source: socketAddress(source, sourcePort),
    destination: socketAddress(destination, destinationPort),
  };
  return decoded(cr + 2, ends, "tcp");
}

/** A line that is right so far, unless its CRLF comes too late. */
function unended(text: string): ProxyDecoding {
  const missing = text.endsWith("\r") ? 1 : 2;
  if (text.length + missing <= LINE_BYTES_MAX) return more;
  return failed(`no CRLF in ${LINE_BYTES_MAX} bytes`);
}

function readAddress(text: string, family: Family): Uint8Array | undefined {
  const address = parseAddress(text);
  return address.ok && address.value.family === family ? address.value.bytes : undefined;
}

/** Every beginning of an IPv4 or IPv6 address becomes a whole one with one of these behind it. */
const ADDRESS_ENDINGS = ["0", ":", "::", "0.0", "0.0.0", "0.0.0.0", ".0", ".0.0", ".0.0.0"];

function beginsAddress(text: string, family: Family): boolean {
  return ADDRESS_ENDINGS.some((ending) => readAddress(text + ending, family) !== undefined);
}

/**
 * Encodes a TCP connection from `source` to `destination`: `PROXY TCP4 …` or
 * `PROXY TCP6 …`, and `PROXY UNKNOWN` when one of them is missing or their families differ.
 */
export function encodeProxyV1(
  source: SocketAddress | undefined,
  destination: SocketAddress | undefined,
): Uint8Array {
  const ends = ofOneFamily(source, destination);
  return new TextEncoder().encode(ends === undefined ? UNKNOWN : line(ends));
}

function line(ends: ProxyAddresses): string {
  const { source, destination } = ends;
  const addresses = `${formatBytes(source.address)} ${formatBytes(destination.address)}`;
  const opening = source.address.length === 4 ? TCP4 : TCP6;
  return `${opening}${addresses} ${source.port} ${destination.port}\r\n`;
}
