/** The layout of a TOML file: one form for all, with its comments where they were. Pure. */

import { type AST, parseTOML } from "toml-eslint-parser";
import type { ConfigProblem } from "./problem.ts";
import { isJson, readText } from "./text.ts";

/** A line of the result, or several: a setting, the head of a table, or a comment. */
interface Item {
  readonly kind: "pair" | "table" | "comment";
  readonly text: string;
  readonly firstLine: number;
  readonly lastLine: number;
}

/**
 * The text of a configuration in its usual layout, or what is wrong in it. Whether its settings are
 * accepted does not matter.
 */
export function formatConfiguration(file: string, text: string): string | ConfigProblem[] {
  const source = text.replace(/^\ufeff/, "");
  const read = readText(source);
  if (read.problems.length > 0) return read.problems.map((each) => ({ file, ...each }));
  return isJson(source)
    ? `${JSON.stringify(JSON.parse(source), undefined, 2)}\n`
    : formatToml(source);
}

/**
 * The same file with one blank around "=", one empty line before each table, and no blanks at the
 * ends of lines. A list that is on several lines has an item on each.
 */
function formatToml(text: string): string {
  const items = itemsOf(text.replaceAll("\r\n", "\n"));
  let formatted = "";
  for (const [i, item] of items.entries()) {
    const before = items[i - 1];
    if (before !== undefined) formatted += needsGap(items, i, before) ? "\n\n" : "\n";
    formatted += item.text;
  }
  return formatted === "" ? "" : `${formatted}\n`;
}

/** Whether an empty line stands before an item: always before a table and its comments. */
function needsGap(items: readonly Item[], at: number, before: Item): boolean {
  const item = items[at] as Item;
  const wasGap = item.firstLine > before.lastLine + 1;
  const isFollowing = before.kind === "comment" && !wasGap;
  if (item.kind === "table") return !isFollowing;
  if (item.kind === "comment" && !isFollowing && leadsToTable(items, at)) return true;
  return wasGap && before.kind !== "table";
}

/** Whether comments from here on, without a gap, are those of a table. */
function leadsToTable(items: readonly Item[], at: number): boolean {
  for (let i = at; i + 1 < items.length; i++) {
    const [item, next] = [items[i] as Item, items[i + 1] as Item];
    if (item.kind !== "comment" || next.firstLine > item.lastLine + 1) return false;
    if (next.kind === "table") return true;
  }
  return false;
}

function itemsOf(source: string): Item[] {
  const program = parseTOML(source, { tomlVersion: "1.0" });
  const layout = new Layout(source, program.comments);
  const items: Item[] = [];
  for (const each of program.body[0].body) {
    if (each.type === "TOMLKeyValue") {
      items.push(layout.pairItem(each));
      continue;
    }
    items.push(layout.tableItem(each), ...each.body.map((pair) => layout.pairItem(pair)));
  }
  return [...items, ...layout.ownLines()].sort((a, b) => a.firstLine - b.firstLine);
}

class Layout {
  private readonly source: string;
  /** By line; those behind something, and those in lists, are taken out as they are used. */
  private readonly comments: Map<number, AST.Comment>;

  constructor(source: string, comments: readonly AST.Comment[]) {
    this.source = source;
    this.comments = new Map(comments.map((each) => [each.loc.start.line, each]));
  }

  pairItem({ key, value, loc }: AST.TOMLKeyValue): Item {
    const text = `${this.key(key)} = ${this.value(value)}`;
    const { line: lastLine } = value.loc.end;
    return this.item("pair", text, loc.start.line, lastLine);
  }

  tableItem({ kind, key, loc }: AST.TOMLTable): Item {
    const name = this.key(key);
    const text = kind === "array" ? `[[${name}]]` : `[${name}]`;
    return this.item("table", text, loc.start.line, loc.start.line);
  }

  /** Comments on lines of their own: what no setting has used. */
  ownLines(): Item[] {
    return [...this.comments.values()].map((comment) => {
      const { line } = comment.loc.start;
      return { kind: "comment", text: this.text(comment), firstLine: line, lastLine: line };
    });
  }

  private item(kind: Item["kind"], text: string, firstLine: number, lastLine: number): Item {
    const comment = this.comments.get(lastLine);
    this.comments.delete(lastLine);
    const behind = comment === undefined ? "" : `  ${this.text(comment)}`;
    return { kind, text: text + behind, firstLine, lastLine };
  }

  private key({ keys }: AST.TOMLKey): string {
    return keys.map((each) => this.text(each)).join(".");
  }

  private value(node: AST.TOMLContentNode): string {
    if (node.type === "TOMLValue") return this.text(node);
    if (node.type === "TOMLInlineTable") {
      const pairs = node.body.map(({ key, value }) => `${this.key(key)} = ${this.value(value)}`);
      return pairs.length === 0 ? "{}" : `{ ${pairs.join(", ")} }`;
    }
    const [first, last] = [node.loc.start.line, node.loc.end.line];
    if (first === last) return `[${node.elements.map((each) => this.value(each)).join(", ")}]`;
    // A list with comments in it stays as it is: each belongs where it stands.
    if (this.takeComments(first, last)) return this.text(node).replace(/[ \t]+$/gm, "");
    const items = node.elements.map((each) => `  ${this.value(each)},\n`);
    return `[\n${items.join("")}]`;
  }

  /** Whether there are comments on these lines but the last, which are not to be moved. */
  private takeComments(first: number, last: number): boolean {
    let found = false;
    for (let line = first; line < last; line++) found = this.comments.delete(line) || found;
    return found;
  }

  private text({ range: [from, to] }: AST.HasLocs): string {
    return this.source.slice(from, to).trimEnd();
  }
}
