/**
 * A fast reader of plain TOML: what most configurations are made of, in a sixth of the time of the
 * parser of the whole language, which thousands of services would wait for. Whatever it does not
 * know, or finds wrong, is left to that parser (`toml.ts`), and so are all messages. What both read
 * has the same values at the same places: a test compares them. Pure.
 */

import { emptyTable, type Located, type Position, start } from "./located.ts";

type LocatedTable = Located & { readonly kind: "table" };
type LocatedList = Located & { readonly kind: "list" };

const TAB = 9;
const NEWLINE = 10;
const SPACE = 32;
const QUOTE = 34;
const HASH = 35;
const APOSTROPHE = 39;
const COMMA = 44;
const DOT = 46;
const EQUALS = 61;
const OPEN_LIST = 91;
const BACKSLASH = 92;
const CLOSE_LIST = 93;
const OPEN_TABLE = 123;
const CLOSE_TABLE = 125;

/** Lists and inline tables in each other, and the parts of a table's name: more is not plain. */
const depthMax = 3;

/** Fewer digits than a number needs that loses precision. */
const digitsMax = 15;

/** What ends the reading of a text that is not plain. */
class NotPlain extends Error {}

/** Reads a text; undefined: it is not plain, or not TOML. */
export function readPlainToml(text: string): LocatedTable | undefined {
  // Columns of other characters, and ends of lines of two, are the parser's matter.
  if (/[^\t\n\x20-\x7e]/.test(text)) return undefined;
  try {
    return new PlainReader(text).read();
  } catch (error) {
    if (error instanceof NotPlain) return undefined;
    throw error;
  }
}

class PlainReader {
  private readonly text: string;
  private at = 0;
  private line = 1;
  private lineStart = 0;
  /** Lists that `[[name]]` has made, and tables that other headers may extend. */
  private readonly extensible = new Set<Located>();

  constructor(text: string) {
    this.text = text;
  }

  read(): LocatedTable {
    const { text } = this;
    const root = emptyTable(start);
    this.extensible.add(root);
    let table = root;
    for (;;) {
      this.skipSpace();
      if (this.at >= text.length) return root;
      const code = text.charCodeAt(this.at);
      if (code === OPEN_LIST) table = this.readHeader(root);
      else if (code !== NEWLINE && code !== HASH) this.readPair(table, 0);
      this.endLine();
    }
  }

  private get position(): Position {
    return { line: this.line, column: this.at - this.lineStart + 1 };
  }

  private readHeader(root: LocatedTable): LocatedTable {
    const at = this.position;
    const isList = this.text.charCodeAt(this.at + 1) === OPEN_LIST;
    this.at += isList ? 2 : 1;
    let here = root;
    for (let depth = 1; ; depth++) {
      const name = this.readKey();
      const isLast = this.text.charCodeAt(this.at) !== DOT;
      if (depth > depthMax) throw new NotPlain();
      if (isLast) here = isList ? this.addItem(here, name, at) : this.addTable(here, name, at);
      else here = this.enter(here, name);
      if (isLast) break;
      this.at++;
    }
    this.expect(CLOSE_LIST);
    if (isList) this.expect(CLOSE_LIST);
    return here;
  }

  /** A table of a header that is there: of a list of them the last one. */
  private enter(table: LocatedTable, name: string): LocatedTable {
    const known = table.entries.get(name)?.value;
    if (known === undefined || !this.extensible.has(known)) throw new NotPlain();
    return (known.kind === "list" ? known.items.at(-1) : known) as LocatedTable;
  }

  private addTable(table: LocatedTable, name: string, at: Position): LocatedTable {
    if (table.entries.has(name)) throw new NotPlain();
    const value = emptyTable(at);
    table.entries.set(name, { at, value });
    this.extensible.add(value);
    return value;
  }

  private addItem(table: LocatedTable, name: string, at: Position): LocatedTable {
    let list = table.entries.get(name)?.value;
    if (list === undefined) {
      list = { kind: "list", at, items: [] } satisfies LocatedList;
      table.entries.set(name, { at, value: list });
      this.extensible.add(list);
    } else if (list.kind !== "list" || !this.extensible.has(list)) throw new NotPlain();
    const item = emptyTable(at);
    list.items.push(item);
    return item;
  }

  private readPair(table: LocatedTable, depth: number): void {
    const at = this.position;
    const name = this.readKey();
    this.skipSpace();
    this.expect(EQUALS);
    this.skipSpace();
    if (table.entries.has(name)) throw new NotPlain();
    table.entries.set(name, { at, value: this.readValue(depth) });
  }

  private readValue(depth: number): Located {
    const { text } = this;
    const at = this.position;
    const code = text.charCodeAt(this.at);
    if (code === QUOTE || code === APOSTROPHE) {
      return { kind: "value", at, value: this.readString(code) };
    }
    if (code === OPEN_LIST) return this.readList(at, depth + 1);
    if (code === OPEN_TABLE) return this.readTable(at, depth + 1);
    const from = this.at;
    while (isKeyCode(text.charCodeAt(this.at))) this.at++;
    return { kind: "value", at, value: scalarOf(text.slice(from, this.at)) };
  }

  private readString(quote: number): string {
    const { text } = this;
    const from = ++this.at;
    for (; ; this.at++) {
      const code = text.charCodeAt(this.at);
      if (code === quote) break;
      // Also at the end of the text.
      if (code === NEWLINE || !(code >= TAB) || (code === BACKSLASH && quote === QUOTE)) {
        throw new NotPlain();
      }
    }
    const value = text.slice(from, this.at++);
    // Three of them begin a text of several lines.
    if (value === "" && text.charCodeAt(this.at) === quote) throw new NotPlain();
    return value;
  }

  private readList(at: Position, depth: number): Located {
    if (depth > depthMax) throw new NotPlain();
    this.at++;
    const items: Located[] = [];
    for (;;) {
      this.skipLines();
      if (this.text.charCodeAt(this.at) === CLOSE_LIST) break;
      items.push(this.readValue(depth));
      this.skipLines();
      if (this.text.charCodeAt(this.at) !== COMMA) break;
      this.at++;
    }
    this.expect(CLOSE_LIST);
    return { kind: "list", at, items };
  }

  private readTable(at: Position, depth: number): Located {
    if (depth > depthMax) throw new NotPlain();
    this.at++;
    const table = emptyTable(at);
    this.skipSpace();
    while (this.text.charCodeAt(this.at) !== CLOSE_TABLE) {
      this.readPair(table, depth);
      this.skipSpace();
      if (this.text.charCodeAt(this.at) !== COMMA) break;
      this.at++;
      this.skipSpace();
      // TOML 1.0 has no comma behind the last one.
      if (this.text.charCodeAt(this.at) === CLOSE_TABLE) throw new NotPlain();
    }
    this.expect(CLOSE_TABLE);
    return table;
  }

  /** A key without quotes. */
  private readKey(): string {
    const from = this.at;
    while (isKeyCode(this.text.charCodeAt(this.at))) this.at++;
    if (this.at === from) throw new NotPlain();
    return this.text.slice(from, this.at);
  }

  private expect(code: number): void {
    if (this.text.charCodeAt(this.at) !== code) throw new NotPlain();
    this.at++;
  }

  private skipSpace(): void {
    const { text } = this;
    for (;;) {
      const code = text.charCodeAt(this.at);
      if (code !== SPACE && code !== TAB) return;
      this.at++;
    }
  }

  /** The rest of a line: nothing, or a comment. */
  private endLine(): void {
    const { text } = this;
    this.skipSpace();
    if (text.charCodeAt(this.at) === HASH) {
      const end = text.indexOf("\n", this.at);
      this.at = end < 0 ? text.length : end;
    }
    if (this.at >= text.length) return;
    this.expect(NEWLINE);
    this.line++;
    this.lineStart = this.at;
  }

  /** Space, ends of lines and comments. */
  private skipLines(): void {
    for (;;) {
      this.skipSpace();
      const code = this.text.charCodeAt(this.at);
      if (code !== NEWLINE && code !== HASH) return;
      this.endLine();
    }
  }
}

/** Letters, digits, "_" and "-": of keys without quotes. */
function isKeyCode(code: number): boolean {
  return (
    (code >= 97 && code <= 122) ||
    (code >= 48 && code <= 57) ||
    code === 45 ||
    code === 95 ||
    (code >= 65 && code <= 90)
  );
}

function scalarOf(text: string): boolean | number {
  if (text === "true") return true;
  if (text === "false") return false;
  if (!/^(0|[1-9][0-9]*)$/.test(text) || text.length > digitsMax) throw new NotPlain();
  return Number(text);
}
