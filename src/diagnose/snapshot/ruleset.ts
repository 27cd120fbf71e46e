/** All firewall rules that a packet may meet. Pure. */

import {
  NFT_SET_ELEM_CATCHALL,
  NFT_SET_ELEM_INTERVAL_END,
  NFT_SET_INTERVAL,
} from "../../../ffi/netlink/constants.ts";
import type { Chain } from "../../../ffi/netlink/nftables/chain.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  type KeyRange,
  type NamedSet,
  predecessor,
  type SetElement,
} from "../../../ffi/netlink/nftables/set.ts";
import { type Bits, every, isKnown, type Ternary, within } from "../nft-evaluator/bits.ts";

/** A chain with its rules. */
export interface RuledChain extends Chain {
  readonly rules: readonly FirewallRule[];
  /** Of iptables' older kind: its rules have numbers for handles. */
  readonly isLegacy?: true;
}

/** One element: a range for each field of its key, and what a map has for it. */
interface SetEntry extends Pick<SetElement, "data" | "verdict"> {
  readonly fields: readonly KeyRange[];
}

/** All elements of a set or of a map. */
export interface SetContents {
  readonly keyLength: number;
  /** Where each field of the key begins, and its bytes. */
  readonly fields: readonly (readonly [offset: number, length: number])[];
  readonly entries: readonly SetEntry[];
  /** The value for keys without an entry. */
  readonly catchall: Pick<SetElement, "data" | "verdict"> | undefined;
}

/** All firewall rules that a packet may meet. */
export interface Ruleset {
  readonly chains: readonly RuledChain[];
  /** By `setKey`; absent for sets that could not be read. */
  readonly sets: ReadonlyMap<string, SetContents>;
}

/** The name of a set of a table, for `Ruleset.sets`. */
export function setKey(family: number, table: string, name: string): string {
  return `${family} ${table} ${name}`;
}

/** The contents of a set as the kernel lists them. */
export function setContents(set: NamedSet, elements: readonly SetElement[]): SetContents {
  const lengths = set.fieldLengths ?? [set.keyLength];
  let offset = 0;
  const fields = lengths.map((length) => {
    const field = [offset, length] as const;
    offset += 4 * Math.ceil(length / 4);
    return field;
  });
  const plain = elements.filter((each) => !has(each, NFT_SET_ELEM_CATCHALL));
  const isInterval = ((set.flags ?? 0) & NFT_SET_INTERVAL) !== 0 && fields.length === 1;
  const ranges = isInterval ? intervals(plain) : plain.map(entryRange);
  return {
    keyLength: set.keyLength,
    fields,
    entries: ranges.map(({ first, last, ...rest }) => ({
      ...rest,
      fields: fields.map(([at, length]) => ({
        first: first.subarray(at, at + length),
        last: last.subarray(at, at + length),
      })),
    })),
    catchall: elements.find((each) => has(each, NFT_SET_ELEM_CATCHALL)),
  };
}

type Range = KeyRange & Pick<SetElement, "data" | "verdict">;

function has({ flags = 0 }: SetElement, flag: number): boolean {
  return (flags & flag) !== 0;
}

function entryRange(element: SetElement): Range {
  return { ...element, first: element.key, last: element.keyEnd ?? element.key };
}

/** Ranges from starts and exclusive ends. */
function intervals(elements: readonly SetElement[]): Range[] {
  const isEnd = (element: SetElement) => has(element, NFT_SET_ELEM_INTERVAL_END);
  const sorted = elements.toSorted(
    (a, b) => Buffer.compare(a.key, b.key) || Number(isEnd(b)) - Number(isEnd(a)),
  );
  return sorted.flatMap((element, i) => {
    if (isEnd(element)) return [];
    const end = sorted[i + 1];
    const last =
      end === undefined ? new Uint8Array(element.key.length).fill(0xff) : predecessor(end.key);
    return [{ ...element, first: element.key, last }];
  });
}

/** A set's entry for a key. */
export interface Found {
  readonly isFound: Ternary;
  /** The element if that is certain, otherwise all that it may be. */
  readonly entries: readonly Pick<SetElement, "data" | "verdict">[];
}

/** The common case of a large set, in passing: a first field that is known and lies elsewhere. */
function isKnownOutside({ fields: [range] }: SetEntry, [part]: readonly Bits[]): boolean {
  if (range === undefined || part === undefined || !isKnown(part)) return false;
  return Buffer.compare(part.value, range.first) < 0 || Buffer.compare(part.value, range.last) > 0;
}

/** Looks a key up. A catch-all element counts as found, as for the kernel. */
export function findInSet({ entries, fields, catchall }: SetContents, key: Bits): Found {
  const maybes: SetEntry[] = [];
  const parts = fields.map(([at, length]) => ({
    value: key.value.subarray(at, at + length),
    known: key.known.subarray(at, at + length),
  }));
  for (const entry of entries) {
    if (isKnownOutside(entry, parts)) continue;
    const answer = every(
      entry.fields.map(({ first, last }, i) => within(parts[i] as Bits, first, last)),
    );
    if (answer === "yes") return { isFound: "yes", entries: [entry] };
    if (answer === "maybe") maybes.push(entry);
  }
  const others = catchall === undefined ? [] : [catchall];
  if (maybes.length > 0) {
    return { isFound: catchall ? "yes" : "maybe", entries: [...maybes, ...others] };
  }
  return { isFound: catchall ? "yes" : "no", entries: others };
}
