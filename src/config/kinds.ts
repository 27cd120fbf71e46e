/**
 * Kinds of values in a configuration file. Each has two schemas: of what the file may hold, which
 * becomes JSON Schema, and of how that is read; and it can be written.
 */

import * as v from "valibot";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";
import { similarTo } from "../net/similar.ts";
import { numberSyntax, type Syntax, wordSyntax } from "./syntax.ts";

/** A value as TOML and JSON have it. */
export type Written =
  | string
  | number
  | boolean
  | readonly Written[]
  | { readonly [key: string]: Written };

/** A value that TOML has and no setting takes: a date, a number with a fraction or of 64 bits. */
export class Unusable {
  /** As it stands in the file. */
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export interface Kind<T> {
  /** What the file may hold. */
  readonly wire: v.GenericSchema;
  /** How it is read; each issue has a message for its author. */
  readonly parsed: v.GenericSchema<unknown, T>;
  /** What the file has to hold to be read as `value`. */
  readonly write: (value: T) => Written;
}

/** What the schema of a text has. */
interface TextOptions {
  readonly examples: readonly [string, ...string[]];
  readonly pattern?: RegExp;
  /** The file may also have it as an integer, without quotes. */
  readonly integers?: boolean;
}

/** A value that is written as text. */
export function text<T>(syntax: Syntax<T>, options: TextOptions): Kind<T> {
  const { pattern, integers = false } = options;
  const examples = [...options.examples];
  const plain = v.pipe(v.string(), v.examples(examples));
  const texts = pattern === undefined ? plain : v.pipe(plain, v.regex(pattern));
  return {
    wire: integers ? v.union([texts, v.pipe(v.number(), v.integer())]) : texts,
    parsed: leaf((value) => readText(value, syntax, integers)),
    write: (value) => {
      const written = syntax.format(value);
      return integers && /^(0|[1-9][0-9]{0,9})$/.test(written) ? Number(written) : written;
    },
  };
}

function readText<T>(value: unknown, { parse }: Syntax<T>, integers: boolean): Parsed<T> {
  if (typeof value === "string") return parse(value);
  const plain = scalarText(value);
  if (plain === undefined) return refuse(`${nameOf(value)} is not accepted here: give one value`);
  const result = parse(plain);
  if (!result.ok || (integers && Number.isInteger(value))) return result;
  return refuse(`${plain} is not text: give it in quotes, ${quote(plain)}`);
}

/** An integer in a range; text that stands for one is taken as well. */
export function integer(min: number, max: number): Kind<number> {
  const syntax = numberSyntax(min, max);
  return {
    wire: v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max)),
    parsed: leaf((value) => readText(value, syntax, true)),
    write: (value) => value,
  };
}

/** One of a few words. */
export function word<const Word extends string>(...words: readonly [Word, ...Word[]]): Kind<Word> {
  const syntax = wordSyntax(words);
  return {
    wire: v.picklist(words),
    parsed: leaf((value) => readText(value, syntax, true)),
    write: (value) => value,
  };
}

/** Yes or no. */
export const yesNo: Kind<boolean> = {
  wire: v.boolean(),
  parsed: leaf((value) => {
    if (typeof value === "boolean") return ok(value);
    return refuse(`${shown(value)} is not accepted: give true or false, without quotes`);
  }),
  write: (value) => value,
};

/** A list, in whose place one item may stand alone. */
export function list<T>(item: Kind<T>, max: number): Kind<readonly T[]> {
  const parsed = v.pipe(
    v.unknown(),
    v.transform((value) => (Array.isArray(value) ? value : [value])),
    v.array(item.parsed),
    v.minLength(1, "the list is empty: give at least one, or leave it out"),
    v.maxLength(max, ({ requirement }) => `there are too many: give at most ${requirement}`),
  );
  return {
    wire: v.union([item.wire, v.pipe(v.array(item.wire), v.minLength(1), v.maxLength(max))]),
    parsed,
    write: (values) => {
      const written = values.map(item.write);
      const [first] = written;
      return written.length === 1 && typeof first !== "object" && first !== undefined
        ? first
        : written;
    },
  };
}

/** A kind, or `true` for all of it and `false` for nothing. */
export function orBoolean<T>(kind: Kind<T>): Kind<T | boolean> {
  return {
    wire: v.union([v.boolean(), kind.wire]),
    parsed: v.lazy(
      (value): v.GenericSchema<unknown, T | boolean> =>
        typeof value === "boolean" ? v.boolean() : kind.parsed,
    ),
    write: (value) => (typeof value === "boolean" ? value : kind.write(value)),
  };
}

/** A setting: its kind, and what it is for. */
export interface Setting<T> {
  readonly kind: Kind<T>;
  /** One sentence, for JSON Schema. */
  readonly about: string;
  /** A table without it is an error. */
  readonly isRequired: boolean;
}

/** A setting that may be left out. */
export function setting<T>(kind: Kind<T>, about: string): Setting<T> {
  return { kind, about, isRequired: false };
}

/** The same for one that has to be there; that it is missing is no matter of its kind. */
export function required<T>(kind: Kind<T>, about: string): Setting<T> {
  return { kind, about, isRequired: true };
}

// biome-ignore lint/suspicious/noExplicitAny: settings of all types stand in one table.
export type Table = Readonly<Record<string, Setting<any>>>;

/** What somebody has set of a table: everything may be left out. */
export type Given<T extends Table> = {
  readonly [Key in keyof T]?: T[Key] extends Setting<infer Value> ? Value : never;
};

/** Settings by name. */
export function table<T extends Table>(settings: T): Kind<Given<T>> {
  const entries: Record<string, v.GenericSchema> = {};
  const wires: Record<string, v.GenericSchema> = {};
  for (const [name, { kind, about, isRequired }] of Object.entries(settings)) {
    const wire = v.pipe(kind.wire, v.description(about));
    wires[name] = isRequired ? wire : v.optional(wire);
    entries[name] = v.optional(kind.parsed);
  }
  const parsed = v.pipe(
    v.unknown(),
    v.check(isTable, ({ input }) => `${shown(input)} is not accepted: give a table`),
    v.looseObject(entries),
    v.rawCheck(({ dataset: { value }, addIssue }) => {
      if (!isTable(value)) return;
      for (const key of Object.keys(value)) {
        if (Object.hasOwn(settings, key)) continue;
        addIssue({ message: unknownSetting(key, settings), path: [pathItem(value, key)] });
      }
    }),
  );
  return {
    wire: v.strictObject(wires),
    parsed: parsed as v.GenericSchema<unknown, Given<T>>,
    write: (given) => writeTable(settings, given),
  };
}

/** The error for a key that is no setting. */
function unknownSetting(key: string, settings: Table): string {
  const names = similarTo(key, Object.keys(settings)).map((name) => `"${name}"`);
  const guess = names.length === 0 ? "" : `; did you mean ${names.join(" or ")}?`;
  return `${quote(key)} is no setting here${guess}`;
}

/** The item of an issue's path. */
export function pathItem(input: Record<string, unknown>, key: string): v.IssuePathItem {
  return { type: "unknown", origin: "key", input, key, value: input[key] };
}

/** Marks the item of a key in a table that is one value: with a part that is wrong it is unread. */
export const partOfValue = Symbol("part of a value");

function writeTable<T extends Table>(settings: T, given: Given<T>): Record<string, Written> {
  const written: Record<string, Written> = {};
  for (const [name, { kind }] of Object.entries(settings)) {
    const value = given[name];
    // An empty list sets nothing, and the reader would reject it.
    const isEmpty = value === undefined || (Array.isArray(value) && value.length === 0);
    if (!isEmpty) written[name] = kind.write(value);
  }
  return written;
}

/** A kind that has no structure of its own for an issue's path. */
function leaf<T>(read: (value: unknown) => Parsed<T>): v.GenericSchema<unknown, T> {
  return v.pipe(
    v.unknown(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const result = read(dataset.value);
      if (result.ok) return result.value;
      addIssue({ message: result.error });
      return NEVER;
    }),
  );
}

/** Whether a value is a table of the file. */
export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === tableProto;
}

const tableProto = Object.prototype;

/** The text of a value that is no list and no table. */
export function scalarText(value: unknown): string | undefined {
  if (value instanceof Unusable) return value.text;
  if (value === null) return "null";
  return typeof value === "object" || value === undefined ? undefined : String(value);
}

/** A value in a message. */
function shown(value: unknown): string {
  if (typeof value === "string") return quote(value);
  return scalarText(value) ?? nameOf(value);
}

function nameOf(value: unknown): string {
  return Array.isArray(value) ? "a list" : "a table";
}
