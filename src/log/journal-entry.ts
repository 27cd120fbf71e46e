/**
 * An entry of systemd's journal as a datagram of its native protocol
 * (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Pure.
 */

import { type LevelName, priorities } from "./level.ts";

/** The program's name in the journal. */
const identifier = "tproxy";

/** The most bytes of one value: what is longer is cut off. */
const valueBytesMax = 8 * 1024;

const encoder = new TextEncoder();

/**
 * The datagram of an entry: `message` for people, and `fields` for programs as `TPROXY_NAME`.
 * Values that are undefined are left out; what is no text is written as JSON.
 */
export function encodeJournalEntry(
  level: LevelName,
  message: string,
  fields: Readonly<Record<string, unknown>>,
): Uint8Array {
  const parts = [
    field("MESSAGE", message),
    field("PRIORITY", `${priorities[level]}`),
    field("SYSLOG_IDENTIFIER", identifier),
  ];
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    const text = typeof value === "string" ? value : JSON.stringify(value);
    parts.push(field(`TPROXY_${name.toUpperCase().replace(/[^A-Z0-9_]/g, "_")}`, text));
  }
  return Buffer.concat(parts);
}

/** `NAME=value`, or with its length where the value has several lines. */
function field(name: string, text: string): Uint8Array {
  const value = encoder.encode(text).subarray(0, valueBytesMax);
  if (!value.includes(0x0a)) return Buffer.concat([encoder.encode(`${name}=`), value, newline]);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(value.length), true);
  return Buffer.concat([encoder.encode(`${name}\n`), length, value, newline]);
}

const newline = Uint8Array.of(0x0a);
