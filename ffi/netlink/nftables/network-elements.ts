/**
 * The elements of an interval set that holds networks, written straight into messages: lists have
 * 200,000 networks, and no object is made for an element. Pure.
 */

import {
  NFT_MSG_NEWSETELEM,
  NFT_SET_ELEM_INTERVAL_END,
  NFTA_LIST_ELEM,
  NFTA_SET_ELEM_FLAGS,
  NFTA_SET_ELEM_KEY,
  NLA_F_NESTED,
  NLM_F_CREATE,
} from "../constants.ts";
import { type Message, Writer } from "../wire.ts";
import { nftMessage } from "./batch.ts";
import { writeData } from "./data.ts";
import { elementsPerMessage, type SetReference, writeElementList } from "./set.ts";

/** A network: 4 or 16 bytes in network order, of which `prefix` bits count. */
interface Network {
  readonly bytes: Uint8Array;
  readonly prefix: number;
}

/**
 * Adds networks of one family, ascending and none inside another, to an interval set: the same
 * messages as `newElements(set, intervalElements(…))` of their ranges. Adjacent networks become one
 * range.
 */
export function newNetworkElements(set: SetReference, networks: readonly Network[]): Message[] {
  const { bytes: first } = networks[0] ?? {};
  if (first === undefined) return [];
  const elements = new ElementBytes(first.length);
  const next = new Uint8Array(first.length);
  let isOpen = false;
  if (first.some((byte) => byte !== 0)) elements.end(next);
  for (const network of networks) {
    const isAdjacent = isOpen && isSame(next, network.bytes);
    if (isOpen && !isAdjacent) elements.end(next);
    if (!isAdjacent) elements.start(network.bytes);
    isOpen = writeNext(network, next);
  }
  if (isOpen) elements.end(next);
  return elements.take().map((bytes) =>
    nftMessage("NFT_MSG_NEWSETELEM", NFT_MSG_NEWSETELEM, NLM_F_CREATE, set.family, (to) => {
      writeElementList(to, set, () => to.raw(bytes));
    }),
  );
}

/** The bytes of elements, in parts that each fit into one message. */
class ElementBytes {
  private readonly starting: Element;
  private readonly ending: Element;
  private readonly parts: Uint8Array[] = [];
  private part: Uint8Array;
  private length = 0;
  private count = 0;

  /** Keys have `keyBytes` bytes. */
  constructor(keyBytes: number) {
    this.starting = encodeElement(keyBytes, undefined);
    this.ending = encodeElement(keyBytes, NFT_SET_ELEM_INTERVAL_END);
    this.part = this.newPart();
  }

  /** A range begins at `key`. */
  start(key: Uint8Array): void {
    this.add(this.starting, key);
  }

  /** A range ends before `key`. */
  end(key: Uint8Array): void {
    this.add(this.ending, key);
  }

  /** What was added, in order. */
  take(): readonly Uint8Array[] {
    this.parts.push(this.part.subarray(0, this.length));
    return this.parts;
  }

  private add({ bytes, keyAt }: Element, key: Uint8Array): void {
    if (this.count === elementsPerMessage) {
      this.parts.push(this.part.subarray(0, this.length));
      this.part = this.newPart();
      this.length = 0;
      this.count = 0;
    }
    const { part, length } = this;
    part.set(bytes, length);
    const at = length + keyAt;
    for (let i = 0; i < key.length; i++) part[at + i] = key[i] as number;
    this.length += bytes.length;
    this.count++;
  }

  private newPart(): Uint8Array {
    return new Uint8Array(elementsPerMessage * this.ending.bytes.length);
  }
}

/** An element whose key is yet to be written. */
interface Element {
  readonly bytes: Uint8Array;
  readonly keyAt: number;
}

function encodeElement(keyBytes: number, flags: number | undefined): Element {
  const to = new Writer();
  const at = to.open(NFTA_LIST_ELEM | NLA_F_NESTED);
  if (flags !== undefined) to.be32(NFTA_SET_ELEM_FLAGS, flags);
  writeData(to, NFTA_SET_ELEM_KEY, new Uint8Array(keyBytes));
  to.close(at);
  // Keys of 4 and 16 bytes need no padding: the key is at the end.
  return { bytes: to.finish(), keyAt: to.length - keyBytes };
}

/** Writes the first address behind a network; false if there is none. */
function writeNext({ bytes, prefix }: Network, next: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) next[i] = bytes[i] as number;
  if (prefix === 0) return false;
  let added = 1 << (7 - ((prefix - 1) & 7));
  for (let i = (prefix - 1) >> 3; i >= 0; i--) {
    const sum = (next[i] as number) + added;
    next[i] = sum;
    if (sum < 256) return true;
    added = 1;
  }
  return false;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = a.length - 1; i >= 0; i--) if (a[i] !== b[i]) return false;
  return true;
}
