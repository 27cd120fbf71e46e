/**
 * The ids of connections and sessions, `worker.sequence.generation`, as text. Of the kernel path
 * the worker is 0, the sequence is the kernel's id, and the generation the service's number. Pure.
 */

import { ok, type Parsed, quote, refuse } from "../net/result.ts";

/** The Worker that a connection is of. */
export interface IdOrigin {
  /** The Worker's number, from 1; 0: the kernel. */
  readonly worker: number;
  /** How many Workers have had this number: each begins its sequence at 1. */
  readonly generation: number;
}

export interface ConnectionId extends IdOrigin {
  /** Counts the connections and sessions of its Worker. */
  readonly sequence: number;
}

/** The text that `parseConnectionId` reads back. */
export function formatConnectionId({ worker, sequence, generation }: ConnectionId): string {
  return `${worker}.${sequence}.${generation}`;
}

/** Parses `1.42.1`. */
export function parseConnectionId(text: string): Parsed<ConnectionId> {
  const parts = /^(0|[1-9][0-9]{0,3})\.([1-9][0-9]{0,15})\.([1-9][0-9]{0,9})$/.exec(text);
  const [worker, sequence, generation] = (parts ?? []).slice(1).map(Number);
  if (worker !== undefined && sequence !== undefined && generation !== undefined) {
    if (sequence <= Number.MAX_SAFE_INTEGER) return ok({ worker, sequence, generation });
  }
  return refuse(
    `${quote(text)} is not the id of a connection: give one as the log has it, "1.42.1"`,
  );
}
