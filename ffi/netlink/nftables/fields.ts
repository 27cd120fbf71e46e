/**
 * Codecs of expressions whose members are one attribute each: a table of fields says how they are
 * written, in its order, and read, so that the two cannot disagree. Pure.
 */

import { type Attributes, WireError, type Writer } from "../wire.ts";
import { readData, writeData } from "./data.ts";
import type { ExpressionCodec } from "./expression-codec.ts";

/** One attribute by its name in the header: `{ NFTA_LIMIT_RATE }`. */
type Attribute = Readonly<Record<string, number>>;

/** How one member of an expression is written and read; undefined for one that is absent. */
interface Field<T, IsOptional extends boolean = false> {
  readonly name: string;
  readonly isOptional: IsOptional;
  write(to: Writer, value: T): void;
  read(from: Attributes): T | undefined;
}

type IsOptional<Value, Key extends keyof Value> = object extends Pick<Value, Key> ? true : false;

type Fields<Value> = {
  readonly [Key in Exclude<keyof Value, "kind">]-?: Field<
    Exclude<Value[Key], undefined>,
    IsOptional<Value, Key>
  >;
};

/** The codec of an expression that has one kind here, which is the kernel's name of it. */
export function fieldCodec<Value extends { readonly kind: string }>(
  kind: Value["kind"],
  fields: Fields<Value>,
): ExpressionCodec<Value> {
  const entries = Object.entries(fields) as [keyof Value, Field<unknown, boolean>][];
  return {
    name: kind,
    kinds: [kind],
    encode(to, expression) {
      for (const [key, field] of entries) {
        if (expression[key] !== undefined) field.write(to, expression[key]);
      }
    },
    decode(from) {
      const members = { kind } as Record<keyof Value, unknown>;
      for (const [key, field] of entries) {
        const value = field.read(from);
        if (value !== undefined) members[key] = value;
        else if (!field.isOptional) throw new WireError(`no ${field.name}`);
      }
      return members as Value;
    },
  };
}

function field<T>(
  attribute: Attribute,
  write: (to: Writer, type: number, value: T) => void,
  read: (from: Attributes, type: number) => T | undefined,
): Field<T> {
  const [[name, type]] = Object.entries(attribute) as [[string, number]];
  return {
    name,
    isOptional: false,
    write: (to, value) => write(to, type, value),
    read: (from) => read(from, type),
  };
}

/** A byte. */
export function u8(attribute: Attribute): Field<number> {
  return field<number>(
    attribute,
    (to, type, value) => to.u8(type, value),
    (from, type) => from.u8(type),
  );
}

/** A 32-bit integer in network order. */
export function be32(attribute: Attribute): Field<number> {
  return field<number>(
    attribute,
    (to, type, value) => to.be32(type, value),
    (from, type) => from.be32(type),
  );
}

/** A 64-bit integer in network order. */
export function be64(attribute: Attribute): Field<bigint> {
  return field<bigint>(
    attribute,
    (to, type, value) => to.be64(type, value),
    (from, type) => from.be64(type),
  );
}

/** A string. */
export function text(attribute: Attribute): Field<string> {
  return field<string>(
    attribute,
    (to, type, value) => to.cstring(type, value),
    (from, type) => from.string(type),
  );
}

/** Bytes as they are. */
export function bytes(attribute: Attribute): Field<Uint8Array> {
  return field<Uint8Array>(
    attribute,
    (to, type, value) => to.bytes(type, value),
    (from, type) => from.bytes(type),
  );
}

/** A value in the form that registers are compared with. */
export function data(attribute: Attribute): Field<Uint8Array> {
  return field(attribute, writeData, readData);
}

/** The same, of a member that may be absent. */
export function optional<T>(wanted: Field<T>): Field<T, true> {
  return { ...wanted, isOptional: true };
}

/** The same, for a member that is absent where the kernel has 0: it reports both alike. */
export function unlessZero(wanted: Field<number>): Field<number, true> {
  return { ...wanted, isOptional: true, read: (from) => wanted.read(from) || undefined };
}

/** The same, of an attribute that stands for this value where it is absent. */
export function or<T>(wanted: Field<T>, absent: T): Field<T> {
  return { ...wanted, read: (from) => wanted.read(from) ?? absent };
}
