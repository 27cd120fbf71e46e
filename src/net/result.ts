import { printJson } from "./printable.ts";

/** The result of every parser of `src/net/`: parsers never throw. */
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: string };

/** A parser's success. */
export function ok<T>(value: T): Parsed<T> {
  return { ok: true, value };
}

/** A parser's error: one line that quotes the bad value and names the accepted ones. */
export function refuse(error: string): { readonly ok: false; readonly error: string } {
  return { ok: false, error };
}

const quotedLengthMax = 60;

/**
 * Quotes a value that a user typed for an error message: one line, at most about 60 characters,
 * and nothing in it that a terminal would act on (control, bidirectional and format characters
 * come out as escapes).
 */
export function quote(text: string): string {
  return printJson(text.length > quotedLengthMax ? `${text.slice(0, quotedLengthMax)}…` : text);
}
