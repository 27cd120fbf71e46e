/** The states of upstreams that one process hands to the next, as JSON. Pure. */

import * as v from "valibot";

const address = v.object({
  /** `192.0.2.1:80`. */
  address: v.string(),
  isUp: v.boolean(),
  reason: v.string(),
  since: v.number(),
  counters: v.record(v.string(), v.number()),
  checks: v.object({ succeeded: v.number(), failed: v.number(), lastMs: v.number() }),
});

/** What an address of an upstream has counted. */
const counted = v.object({
  pool: v.string(),
  upstream: v.string(),
  ...v.pick(address, ["address", "counters", "checks"]).entries,
});

const upstream = v.object({
  pool: v.string(),
  upstream: v.string(),
  /** Its entry in the configuration: what was asked for lasts until that is another one. */
  entry: v.string(),
  admin: v.picklist(["ready", "drain", "down"]),
  weight: v.optional(v.number()),
  since: v.number(),
  addresses: v.array(address),
});

export type HandedUpstream = v.InferOutput<typeof upstream>;

export type HandedCounts = v.InferOutput<typeof counted>;

/** Those that can be read, from a process of another version as well. */
export function readHanded(handed: unknown): HandedUpstream[] {
  return readList(upstream, handed);
}

/** Those counts that can be read. */
export function readCounts(handed: unknown): HandedCounts[] {
  return readList(counted, handed);
}

function readList<S extends v.GenericSchema>(schema: S, handed: unknown): v.InferOutput<S>[] {
  if (!Array.isArray(handed)) return [];
  return handed.flatMap((each) => {
    const parsed = v.safeParse(schema, each);
    return parsed.success ? [parsed.output] : [];
  });
}
