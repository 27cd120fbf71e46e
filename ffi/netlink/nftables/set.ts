/**
 * Named sets of nf_tables and their elements. Pure.
 *
 * A set with NFT_SET_INTERVAL holds ranges as a start and, flagged, an exclusive end, sorted. One
 * that reaches the top of the space has no end; unless the first begins at 0, an end at 0 leads.
 */

import {
  NFT_MSG_DELSET,
  NFT_MSG_DELSETELEM,
  NFT_MSG_GETSET,
  NFT_MSG_GETSETELEM,
  NFT_MSG_NEWSET,
  NFT_MSG_NEWSETELEM,
  NFT_SET_ELEM_CATCHALL,
  NFT_SET_ELEM_INTERVAL_END,
  NFTA_LIST_ELEM,
  NFTA_SET_DATA_LEN,
  NFTA_SET_DATA_TYPE,
  NFTA_SET_DESC,
  NFTA_SET_DESC_CONCAT,
  NFTA_SET_ELEM_DATA,
  NFTA_SET_ELEM_FLAGS,
  NFTA_SET_ELEM_KEY,
  NFTA_SET_ELEM_KEY_END,
  NFTA_SET_ELEM_LIST_ELEMENTS,
  NFTA_SET_ELEM_LIST_SET,
  NFTA_SET_ELEM_LIST_SET_ID,
  NFTA_SET_ELEM_LIST_TABLE,
  NFTA_SET_FIELD_LEN,
  NFTA_SET_FLAGS,
  NFTA_SET_HANDLE,
  NFTA_SET_ID,
  NFTA_SET_KEY_LEN,
  NFTA_SET_KEY_TYPE,
  NFTA_SET_NAME,
  NFTA_SET_TABLE,
  NFTA_SET_USERDATA,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
} from "../constants.ts";
import { Attributes, defined, type Message, required, WireError, type Writer } from "../wire.ts";
import { nftAttributes, nftMessage } from "./batch.ts";
import { readData, readVerdict, writeData } from "./data.ts";

/** nft(8)'s numbers of data types (`enum datatypes` of its datatype.h), for its listings only. */
export const TYPE_IPADDR = 7;
export const TYPE_IP6ADDR = 8;
export const TYPE_INET_SERVICE = 13;
export const TYPE_FIB_ADDR = 38;
export const TYPE_IFNAME = 41;
/** An integer of as many bits as the key has. */
export const TYPE_INTEGER = 4;
/** A key or value that is put together from several, each of them padded to 4 bytes. */
export const concatenated = (...types: readonly number[]) =>
  types.reduce((all, type) => (all << 6) | type, 0);

/** Which set. */
export interface SetReference {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** A number for it within a batch that makes it. The kernel does not return it. */
  readonly id?: number;
}

/** A named set. `all`, a keyword of nft(8), is no good name. */
export interface NamedSet extends SetReference {
  /** TYPE_IPADDR, …: how nft shows the elements. */
  readonly keyType: number;
  /** In bytes: 4 for IPv4, 16 for IPv6, 2 for ports. */
  readonly keyLength: number;
  /** The keys are in host order, as those of interface names: nft needs that to show them. */
  readonly hostOrder?: true;
  /** Of a map (NFT_SET_MAP): the type and the bytes of its values. */
  readonly dataType?: number;
  readonly dataLength?: number;
  /** In place of `hostOrder`: what nft(8) notes of the types (`typeof.ts`). It is not decoded. */
  readonly userData?: Uint8Array;
  /** NFT_SET_*; absent for none. */
  readonly flags?: number;
  /** The bytes of each field of a key that is put together from several, in dumps. */
  readonly fieldLengths?: readonly number[];
  /** The kernel's number of it, in dumps. */
  readonly handle?: bigint;
}

/** One element. `key` is in network order for addresses and ports; a catch-all's is empty. */
export interface SetElement {
  readonly key: Uint8Array;
  /** Of a range over fields: its last key, in dumps. */
  readonly keyEnd?: Uint8Array;
  /** The value of a map's key. */
  readonly data?: Uint8Array;
  /** The verdict of a verdict map's key, in dumps. */
  readonly verdict?: { readonly code: number; readonly chain?: string };
  /** NFT_SET_ELEM_*; absent for none. */
  readonly flags?: number;
}

/** First and last address or port of a range, both within and of one length. */
export interface KeyRange {
  readonly first: Uint8Array;
  readonly last: Uint8Array;
}

/** A nest's length is 16 bits: this many elements of 16 bytes stay well within it. */
export const elementsPerMessage = 1000;

/** Makes a set: EEXIST when there is one. */
export function newSet(set: NamedSet): Message {
  const flags = NLM_F_CREATE | NLM_F_EXCL;
  return nftMessage("NFT_MSG_NEWSET", NFT_MSG_NEWSET, flags, set.family, (to) => {
    to.cstring(NFTA_SET_TABLE, set.table);
    to.cstring(NFTA_SET_NAME, set.name);
    to.be32(NFTA_SET_FLAGS, set.flags ?? 0);
    to.be32(NFTA_SET_KEY_TYPE, set.keyType);
    to.be32(NFTA_SET_KEY_LEN, set.keyLength);
    if (set.dataType !== undefined) to.be32(NFTA_SET_DATA_TYPE, set.dataType);
    if (set.dataLength !== undefined) to.be32(NFTA_SET_DATA_LEN, set.dataLength);
    // The kernel refuses a set without an id.
    to.be32(NFTA_SET_ID, set.id ?? 0);
    const { userData = set.hostOrder && hostOrderKeys } = set;
    if (userData !== undefined) to.bytes(NFTA_SET_USERDATA, userData);
  });
}

/** Deletes a set: EBUSY while a rule looks it up. */
export function deleteSet({ family, table, name }: SetReference): Message {
  return nftMessage("NFT_MSG_DELSET", NFT_MSG_DELSET, 0, family, (to) => {
    to.cstring(NFTA_SET_TABLE, table);
    to.cstring(NFTA_SET_NAME, name);
  });
}

/** Asks for the sets of a table. */
export function dumpSets(family: number, table: string): Message {
  return nftMessage("NFT_MSG_GETSET", NFT_MSG_GETSET, NLM_F_DUMP, family, (to) => {
    to.cstring(NFTA_SET_TABLE, table);
  });
}

/**
 * Decodes the body of NFT_MSG_NEWSET.
 * @throws WireError
 */
export function decodeSet(body: Uint8Array): NamedSet {
  const { family, attributes } = nftAttributes(body);
  return defined({
    family,
    table: required(attributes.string(NFTA_SET_TABLE), "NFTA_SET_TABLE"),
    name: required(attributes.string(NFTA_SET_NAME), "NFTA_SET_NAME"),
    flags: attributes.be32(NFTA_SET_FLAGS) || undefined,
    keyType: required(attributes.be32(NFTA_SET_KEY_TYPE), "NFTA_SET_KEY_TYPE"),
    keyLength: required(attributes.be32(NFTA_SET_KEY_LEN), "NFTA_SET_KEY_LEN"),
    dataType: attributes.be32(NFTA_SET_DATA_TYPE),
    dataLength: attributes.be32(NFTA_SET_DATA_LEN),
    id: attributes.be32(NFTA_SET_ID) || undefined,
    hostOrder: tellsHostOrder(attributes.bytes(NFTA_SET_USERDATA)) ? (true as const) : undefined,
    fieldLengths: fieldLengths(attributes),
    handle: attributes.be64(NFTA_SET_HANDLE),
  });
}

function fieldLengths(attributes: Attributes): number[] | undefined {
  const fields = attributes.nested(NFTA_SET_DESC)?.list(NFTA_SET_DESC_CONCAT) ?? [];
  if (fields.length === 0) return undefined;
  return fields.map(({ payload }) => {
    return required(new Attributes(payload).be32(NFTA_SET_FIELD_LEN), "NFTA_SET_FIELD_LEN");
  });
}

/** User data as nft(8) writes it: NFTNL_UDATA_SET_KEYBYTEORDER, 4 bytes, BYTEORDER_HOST_ENDIAN. */
const hostOrderKeys = Uint8Array.of(0, 4, 1, 0, 0, 0);

function tellsHostOrder(userData: Uint8Array | undefined): boolean {
  return userData !== undefined && hostOrderKeys.every((byte, i) => byte === userData[i]);
}

/** Adds elements, in as many messages as they need. */
export function newElements(set: SetReference, elements: readonly SetElement[]): Message[] {
  return elementMessages("NFT_MSG_NEWSETELEM", NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
}

/** Removes elements: ENOENT when one is not there. */
export function deleteElements(set: SetReference, elements: readonly SetElement[]): Message[] {
  return elementMessages("NFT_MSG_DELSETELEM", NFT_MSG_DELSETELEM, 0, set, elements);
}

function elementMessages(
  operation: string,
  type: number,
  flags: number,
  set: SetReference,
  elements: readonly SetElement[],
): Message[] {
  const messages: Message[] = [];
  for (let at = 0; at < elements.length; at += elementsPerMessage) {
    const some = elements.slice(at, at + elementsPerMessage);
    messages.push(elementMessage(operation, type, flags, set, some));
  }
  return messages;
}

function elementMessage(
  operation: string,
  type: number,
  flags: number,
  set: SetReference,
  elements: readonly SetElement[],
): Message {
  return nftMessage(operation, type, flags, set.family, (to) => {
    writeElementList(to, set, () => {
      for (const { flags, key, data } of elements) {
        const at = to.open(NFTA_LIST_ELEM | NLA_F_NESTED);
        if (flags !== undefined) to.be32(NFTA_SET_ELEM_FLAGS, flags);
        writeData(to, NFTA_SET_ELEM_KEY, key);
        if (data !== undefined) writeData(to, NFTA_SET_ELEM_DATA, data);
        to.close(at);
      }
    });
  });
}

/** Writes the attributes of a message about elements of a set; `write` writes the elements. */
export function writeElementList(to: Writer, set: SetReference, write: () => void): void {
  to.cstring(NFTA_SET_ELEM_LIST_TABLE, set.table);
  to.cstring(NFTA_SET_ELEM_LIST_SET, set.name);
  if (set.id !== undefined) to.be32(NFTA_SET_ELEM_LIST_SET_ID, set.id);
  to.nest(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, write);
}

/** Asks for the elements of a set, which come in several messages. */
export function dumpElements({ family, table, name }: SetReference): Message {
  return nftMessage("NFT_MSG_GETSETELEM", NFT_MSG_GETSETELEM, NLM_F_DUMP, family, (to) => {
    to.cstring(NFTA_SET_ELEM_LIST_TABLE, table);
    to.cstring(NFTA_SET_ELEM_LIST_SET, name);
  });
}

/**
 * Decodes the body of one NFT_MSG_NEWSETELEM.
 * @throws WireError
 */
export function decodeElements(body: Uint8Array): SetElement[] {
  const { attributes } = nftAttributes(body);
  return attributes.list(NFTA_SET_ELEM_LIST_ELEMENTS).map(({ payload }) => {
    const element = new Attributes(payload);
    const flags = element.be32(NFTA_SET_ELEM_FLAGS) ?? 0;
    const key = readData(element, NFTA_SET_ELEM_KEY);
    const isCatchall = (flags & NFT_SET_ELEM_CATCHALL) !== 0;
    return defined({
      key: isCatchall ? new Uint8Array() : required(key, "NFTA_SET_ELEM_KEY"),
      keyEnd: readData(element, NFTA_SET_ELEM_KEY_END),
      data: readData(element, NFTA_SET_ELEM_DATA),
      verdict: readVerdict(element, NFTA_SET_ELEM_DATA),
      flags: flags || undefined,
    });
  });
}

/** The elements that make an interval set hold these ranges: merged and sorted. */
export function intervalElements(ranges: readonly KeyRange[]): SetElement[] {
  const elements: SetElement[] = [];
  for (const { first, last } of mergeRanges(ranges)) {
    const isLeading = elements.length === 0;
    if (isLeading && first.some((byte) => byte !== 0))
      elements.push(end(new Uint8Array(first.length)));
    elements.push({ key: first });
    const next = successor(last);
    if (next !== undefined) elements.push(end(next));
  }
  return elements;
}

/**
 * The ranges that the elements of an interval set stand for, whatever order the kernel listed
 * them in.
 * @throws WireError when a range ends twice or begins within another
 */
export function elementRanges(elements: readonly SetElement[]): KeyRange[] {
  const isEnd = ({ flags = 0 }: SetElement) => (flags & NFT_SET_ELEM_INTERVAL_END) !== 0;
  // At one key, the range that ends there comes before the one that begins.
  const sorted = [...elements].sort(
    (a, b) => Buffer.compare(a.key, b.key) || Number(isEnd(b)) - Number(isEnd(a)),
  );
  const ranges: KeyRange[] = [];
  let first: Uint8Array | undefined;
  for (const element of sorted) {
    const { key } = element;
    if (!isEnd(element)) {
      if (first !== undefined) throw new WireError("an interval that begins within another");
      first = key;
    } else if (first !== undefined) {
      ranges.push({ first, last: predecessor(key) });
      first = undefined;
    } else if (key.some((byte) => byte !== 0)) {
      throw new WireError("an interval that ends and did not begin");
    }
  }
  if (first !== undefined) ranges.push({ first, last: new Uint8Array(first.length).fill(0xff) });
  return ranges;
}

/** The same keys in the fewest ranges, ascending: overlapping and adjacent ones become one. */
function mergeRanges(ranges: readonly KeyRange[]): readonly KeyRange[] {
  const merged: KeyRange[] = [];
  for (const range of sorted(ranges)) {
    const previous = merged.at(-1);
    if (previous === undefined || isBehind(previous.last, range.first)) merged.push(range);
    else if (Buffer.compare(range.last, previous.last) > 0) {
      merged[merged.length - 1] = { first: previous.first, last: range.last };
    }
  }
  return merged;
}

/** Long lists have mostly been sorted before. */
function sorted(ranges: readonly KeyRange[]): readonly KeyRange[] {
  let previous = ranges[0];
  for (const range of ranges) {
    if (Buffer.compare((previous as KeyRange).first, range.first) > 0) {
      return [...ranges].sort((a, b) => Buffer.compare(a.first, b.first));
    }
    previous = range;
  }
  return ranges;
}

/** Whether there are keys between these two, the smaller one first. */
function isBehind(before: Uint8Array, key: Uint8Array): boolean {
  return Buffer.compare(key, before) > 0 && !isNext(before, key);
}

/** Whether one key comes right behind another. */
export function isNext(before: Uint8Array, key: Uint8Array): boolean {
  let i = key.length - 1;
  // A key that ends in ones is followed by one that ends in zeros.
  while (i > 0 && before[i] === 0xff && key[i] === 0) i--;
  if ((before[i] as number) + 1 !== key[i]) return false;
  while (--i >= 0) if (before[i] !== key[i]) return false;
  return true;
}

function end(key: Uint8Array): SetElement {
  return { key, flags: NFT_SET_ELEM_INTERVAL_END };
}

/** The next key; undefined after the last of the space. */
function successor(key: Uint8Array): Uint8Array | undefined {
  const next = key.slice();
  for (let i = next.length - 1; i >= 0; i--) {
    next[i] = (next[i] as number) + 1;
    if (next[i] !== 0) return next;
  }
  return undefined;
}

/** The key before one that is not the first of the space. */
export function predecessor(key: Uint8Array): Uint8Array {
  const previous = key.slice();
  for (let i = previous.length - 1; i >= 0; i--) {
    const borrows = previous[i] === 0;
    previous[i] = (previous[i] as number) - 1;
    if (!borrows) break;
  }
  return previous;
}
