/**
 * Questions for the addresses of a name, and answers to them (RFC 1035, RFC 3596). The wire
 * format is dns-packet's. What a resolver answers is input from elsewhere: it counts only if it has
 * the question's id and the question itself; its records are bounded, and their addresses have to
 * be such as a host can have. Pure.
 */

import { type Answer, decode, encode, type Packet, RECURSION_DESIRED } from "dns-packet";
import { type Address, parseAddress } from "../net/address.ts";

/** Addresses of one family that count, and names on the way to them (CNAME). */
const addressesMax = 64;
const aliasesMax = 16;

/** The largest time to live that counts (RFC 8767: a week); one with its first bit set is 0. */
const ttlMax = 604_800;

/** A question for the addresses of one family. */
export interface Question {
  readonly id: number;
  readonly name: string;
  readonly family: 4 | 6;
}

/** A decoded answer. */
export type Reply =
  | { readonly kind: "found"; readonly addresses: readonly Address[]; readonly ttlSeconds: number }
  /** There is no such name, or it has no address of this family. */
  | { readonly kind: "absent" }
  /** More than a datagram holds: to be asked again over TCP. */
  | { readonly kind: "truncated" }
  /** The resolver does not know, with its word for it. */
  | { readonly kind: "failed"; readonly reason: string };

/** Whether `name` can be asked for: labels of 1 to 63 bytes, 253 in all. */
export function isDomainName(name: string): boolean {
  const labels = name.replace(/\.$/, "").split(".");
  return name.length <= 253 && labels.every((label) => /^[\x21-\x7e]{1,63}$/.test(label));
}

/** The question as a message. */
export function encodeQuestion({ id, name, family }: Question): Uint8Array {
  const question = { type: typeOf(family), name, class: "IN" } as const;
  return encode({ type: "query", id, flags: RECURSION_DESIRED, questions: [question] });
}

/** Decodes the answer to `question` in `bytes`; undefined: they do not answer it. */
export function readReply(bytes: Uint8Array, question: Question): Reply | undefined {
  let packet: ReturnType<typeof decode>;
  try {
    packet = decode(Buffer.from(bytes));
  } catch {
    return undefined;
  }
  if (packet.type !== "response" || packet.id !== question.id) return undefined;
  if (!repeats(packet, question)) return undefined;
  if (packet.flag_tc) return { kind: "truncated" };
  // Not in the type: dns-packet names the code of the answer.
  const { rcode } = packet as unknown as { rcode: string };
  if (rcode === "NXDOMAIN") return { kind: "absent" };
  if (rcode !== "NOERROR") return { kind: "failed", reason: rcode };
  return found(packet.answers ?? [], question);
}

function repeats({ questions = [] }: Packet, { name, family }: Question): boolean {
  const [asked] = questions;
  return questions.length === 1 && asked?.type === typeOf(family) && isSame(asked.name, name);
}

function found(answers: readonly Answer[], { name, family }: Question): Reply {
  let owner = canonical(name);
  let ttlSeconds = ttlMax;
  const isOwned = (answer: Answer) => canonical(answer.name) === owner;
  // Aliases may come in any order, and in a circle.
  for (let alias = 0; alias < aliasesMax; alias++) {
    const next = answers.find((answer) => answer.type === "CNAME" && isOwned(answer));
    if (next?.type !== "CNAME") break;
    owner = canonical(next.data);
    ttlSeconds = Math.min(ttlSeconds, ttlOf(next.ttl));
  }
  const addresses: Address[] = [];
  for (const answer of answers) {
    if (answer.type !== typeOf(family) || !isOwned(answer)) continue;
    const address = parseAddress(String(answer.data));
    if (!address.ok || !isOfHost(address.value) || addresses.length === addressesMax) continue;
    addresses.push(address.value);
    ttlSeconds = Math.min(ttlSeconds, ttlOf(answer.ttl));
  }
  return addresses.length === 0 ? { kind: "absent" } : { kind: "found", addresses, ttlSeconds };
}

/** RFC 2181, section 8: what has the first of 32 bits set counts as 0. */
function ttlOf(ttl = 0): number {
  return Number.isInteger(ttl) && ttl >= 0 && ttl < 2 ** 31 ? Math.min(ttl, ttlMax) : 0;
}

/** Neither unspecified nor multicast nor reserved (240.0.0.0/4). */
function isOfHost({ family, bytes }: Address): boolean {
  const [first = 0] = bytes;
  if (family === 4) return first > 0 && first < 224;
  return first !== 0xff && bytes.some((byte) => byte !== 0);
}

function typeOf(family: 4 | 6): "A" | "AAAA" {
  return family === 4 ? "A" : "AAAA";
}

function canonical(name: string): string {
  return name.replace(/\.$/, "").toLowerCase();
}

function isSame(one: string, other: string): boolean {
  return canonical(one) === canonical(other);
}
