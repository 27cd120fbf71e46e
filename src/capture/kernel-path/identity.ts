/**
 * What a table of the kernel path bears that may outlive its process: by it the next process knows
 * whether the table is of the same services, and whether its rules are the ones that it would make.
 * Pure. It is user data as nft(8) makes it: members of one byte type, one byte length, and a value.
 */

import { hashBytes } from "../../net/hash.ts";
import type { FirewallTable } from "../plan/plan.ts";
import type { PathEnd } from "./intent.ts";

/** NFTNL_UDATA_TABLE_COMMENT of libnftnl/udata.h; others are skipped by nft. */
const COMMENT = 0;
/** Our own members. */
const SHAPE = 0xf0;
const LISTENERS = 0xf1;

const listenerBytes = 4;
/** The smallest hashes are listed: of equal lists they are the same ones. */
const listenersMax = 32;

/** A table's identity. */
export interface PathIdentity {
  /** Equal for tables with the same rules, whatever upstreams they lead to. */
  readonly shape: string;
  /** Hashes of what the services listen at. */
  readonly listeners: readonly string[];
}

const comments = {
  open: "",
  closed: "tproxy: refuses new connections when its process has ended",
  keep: "tproxy: stays when its process ends; tproxy routes --remove",
} as const satisfies Record<PathEnd, string>;

/** The user data of a table. */
export function encodeIdentity(
  table: FirewallTable,
  listeners: readonly string[],
  onExit: PathEnd,
): Uint8Array {
  return Uint8Array.from([
    ...member(COMMENT, new TextEncoder().encode(`${comments[onExit]}\0`)),
    ...member(SHAPE, Buffer.from(shapeOf(table), "hex")),
    ...member(LISTENERS, Buffer.from(hashes(listeners).join(""), "hex")),
  ]);
}

/** The identity in user data; undefined where it has none. */
export function decodeIdentity(userData: Uint8Array | undefined): PathIdentity | undefined {
  const members = new Map<number, Uint8Array>();
  for (let at = 0; userData !== undefined && at + 2 <= userData.length; ) {
    const [type = 0, length = 0] = userData.subarray(at);
    members.set(type, userData.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  const [shape, listeners] = [members.get(SHAPE), members.get(LISTENERS)];
  if (shape === undefined || listeners === undefined) return undefined;
  const each = listeners.toHex().match(new RegExp(`.{${2 * listenerBytes}}`, "g")) ?? [];
  return { shape: shape.toHex(), listeners: each };
}

/** Whether a table's services listen at one of these. */
export function isSameServices({ listeners }: PathIdentity, wanted: readonly string[]): boolean {
  const known = new Set(listeners);
  return hashes(wanted).some((each) => known.has(each));
}

/**
 * Equal for tables that differ in nothing but what is in their maps and sets of upstreams, and the
 * interfaces of their flowtable, which follow those of the host.
 */
export function shapeOf({ userData: _, ...table }: FirewallTable): string {
  const objects = table.objects?.map((each) => {
    if (each.kind === "slots") return { ...each, slots: each.slots.length };
    if (each.kind === "flowtable") return { ...each, devices: 0 };
    return each.kind === "endpoints" ? { ...each, endpoints: 0 } : each;
  });
  return hash(JSON.stringify({ ...table, objects }));
}

function hashes(texts: readonly string[]): string[] {
  const all = new Set(texts.map((each) => hash(each).slice(0, 2 * listenerBytes)));
  return [...all].sort().slice(0, listenersMax);
}

/** 64 bits in hexadecimal digits: of the text, and of it behind another beginning. */
function hash(text: string): string {
  return [text, `\0${text}`]
    .map((each) => hashBytes(new TextEncoder().encode(each)).toString(16).padStart(8, "0"))
    .join("");
}

function member(type: number, value: Uint8Array): number[] {
  return [type, value.length, ...value];
}
