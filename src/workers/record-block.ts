/** Records of connections on their way to the main thread (`records.ts`). */

/** Events of connections and sessions that leave a Worker together, as numbers (`records.ts`). */
export interface RecordBlock {
  readonly kind: "records";
  readonly bytes: Uint8Array;
  /** The words that the records name by their number. */
  readonly words: readonly string[];
}
