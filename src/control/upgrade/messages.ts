/** What old and new process of an upgrade say to each other. Pure. */

import * as v from "valibot";

/** Grows when an old process could not hand over to one that speaks the next one. */
export const protocolVersion = 1;

/** The form of `batch`. Another number for another one: then nothing is moved. */
export const moveFormat = 1;

const Identity = v.object({
  tableName: v.string(),
  mark: v.object({ value: v.number(), mask: v.number() }),
  table: v.number(),
  priority: v.number(),
});

/** The set-up of the rules that a handed socket owns. */
export type CaptureIdentity = v.InferOutput<typeof Identity>;

/** By the new process. */
const FromNew = v.variant("kind", [
  /** The first message. */
  v.object({
    kind: v.literal("hello"),
    protocol: v.number(),
    version: v.string(),
    pid: v.number(),
    /** It takes over what is open, in this form; absent: it does not. */
    moves: v.optional(v.number()),
  }),
  /** It has all that it needs, and accepts TCP. */
  v.object({ kind: v.literal("ready"), keepsRules: v.boolean() }),
  /** It ends instead; a line for each problem. */
  v.object({ kind: v.literal("failed"), lines: v.array(v.string()) }),
  /** It has taken over what is in a batch, but for the rows with these places. */
  v.object({ kind: v.literal("adopted"), batch: v.number(), refused: v.array(v.number()) }),
  /** It has been told to stop: the old one shall stop as well. */
  v.object({ kind: v.literal("stop") }),
]);

/** What is open, as Workers pack it (`workers/moved.ts`): both processes know the form. */
const Row = v.looseObject({
  protocol: v.picklist(["tcp", "udp"]),
  service: v.string(),
  id: v.string(),
  descriptors: v.number(),
});

/** By the old process. */
const FromOld = v.variant("kind", [
  /** What the parts of a server hand over, by their names. */
  v.object({ kind: v.literal("state"), parts: v.record(v.string(), v.unknown()) }),
  /** With the descriptors of all listeners. */
  v.object({ kind: v.literal("listeners") }),
  /** With the socket that owns the firewall table, if there is one. The last of what is offered. */
  v.object({ kind: v.literal("netlink"), identity: v.optional(Identity) }),
  /** It receives nothing new any more: all of it is the new one's. */
  v.object({ kind: v.literal("serve") }),
  /** What it has counted, now and again until its end; `open` is what it still carries. */
  v.object({
    kind: v.literal("counters"),
    services: v.record(
      v.string(),
      v.object({ counters: v.record(v.string(), v.number()), tally: v.array(v.number()) }),
    ),
    /** Of upstreams, as far as that has changed; the pools read it. */
    upstreams: v.optional(v.unknown()),
    /** Of the process, by their names. */
    totals: v.optional(v.record(v.string(), v.number())),
    open: v.number(),
  }),
  /** The last word: it ends now, and resets what is still open. */
  v.object({ kind: v.literal("ends"), open: v.number() }),
  /** Open connections or sessions, with the descriptors of all: they are frozen here meanwhile. */
  v.object({ kind: v.literal("batch"), batch: v.number(), rows: v.array(Row) }),
  /** What was taken over of a batch is the new process's alone. */
  v.object({ kind: v.literal("begin"), batch: v.number() }),
  /** What could be moved is moved; what comes to rest later may follow. */
  v.object({ kind: v.literal("moved") }),
]);

export type FromNew = v.InferOutput<typeof FromNew>;
export type FromOld = v.InferOutput<typeof FromOld>;

/** A message of the new process; undefined for what is none. */
export function readFromNew(value: unknown): FromNew | undefined {
  const { success, output } = v.safeParse(FromNew, value);
  return success ? output : undefined;
}

/** A message of the old process; undefined for what is none. */
export function readFromOld(value: unknown): FromOld | undefined {
  const { success, output } = v.safeParse(FromOld, value);
  return success ? output : undefined;
}
