/** TOML as values with their places. Pure. */

import { type AST, ParseError, parseTOML } from "toml-eslint-parser";
import { quote } from "../net/result.ts";
import {
  depthMax,
  type Entry,
  emptyTable,
  type Located,
  type Position,
  type ReadText,
  start,
  type TextProblem,
  tooDeep,
  unusable,
} from "./located.ts";

type LocatedTable = Located & { readonly kind: "table" };

/** Reads TOML 1.0. Of syntax errors the first is known; nothing is thrown. */
export function readToml(text: string): ReadText {
  let program: AST.TOMLProgram;
  try {
    program = parseTOML(text, { tomlVersion: "1.0" });
  } catch (error) {
    return { root: emptyTable(start), problems: [problemOf(error, text)] };
  }
  const problems: TextProblem[] = [];
  const root = emptyTable(start);
  for (const each of program.body[0].body) {
    if (each.type === "TOMLTable") addTable(root, each, problems);
    else addPair(root, each, problems, 0);
  }
  return { root, problems };
}

function problemOf(error: unknown, text: string): TextProblem {
  // Values of a million characters, and thousands of brackets, exceed the parser's stack.
  if (error instanceof RangeError) return { at: start, text: "is nested too deeply" };
  if (!(error instanceof ParseError)) return { at: start, text: String(error) };
  const at = { line: error.lineNumber, column: error.column + 1 };
  const line = text.split(/\r?\n/)[error.lineNumber - 1] ?? "";
  return { at, text: syntaxText(error.message, line.slice(error.column)) };
}

/** Better words for the parser's errors that are too short. */
function syntaxText(message: string, rest: string): string {
  if (message.startsWith("Defining a key multiple times")) {
    const [key = ""] = /^[^\s=\].,]+/.exec(rest) ?? [];
    return `${quote(key)} is set twice: leave one of them out`;
  }
  if (message.startsWith("Unspecified values")) {
    return 'a value is missing behind "=": give one, text in quotes';
  }
  if (message.startsWith("Unexpected") && rest !== "") {
    const [word = ""] = /^\S+/.exec(rest) ?? [];
    return `${quote(word)} is not expected here: text stands in quotes`;
  }
  return `this is not TOML: ${message.charAt(0).toLowerCase()}${message.slice(1)}`;
}

const positionOfNode = ({ loc }: AST.HasLocs): Position => ({
  line: loc.start.line,
  column: loc.start.column + 1,
});

function addTable(root: LocatedTable, node: AST.TOMLTable, problems: TextProblem[]): void {
  const at = positionOfNode(node);
  if (node.resolvedKey.length > depthMax) {
    problems.push({ at, text: tooDeep });
    return;
  }
  let here: Located = root;
  for (const [i, step] of node.resolvedKey.entries()) {
    here = stepInto(here, step, at, typeof node.resolvedKey[i + 1] === "number");
  }
  for (const pair of node.body)
    addPair(here as LocatedTable, pair, problems, node.resolvedKey.length);
}

/** The table or list at one step of a table's name, made if it is not there. */
function stepInto(here: Located, step: string | number, at: Position, isList: boolean): Located {
  if (here.kind === "list") {
    const found = here.items[Number(step)] ?? emptyTable(at);
    here.items[Number(step)] = found;
    return found;
  }
  const { entries } = here as LocatedTable;
  const entry = entries.get(String(step)) ?? {
    at,
    value: isList ? { kind: "list", at, items: [] } : emptyTable(at),
  };
  entries.set(String(step), entry);
  return entry.value;
}

function addPair(
  table: LocatedTable,
  pair: AST.TOMLKeyValue,
  problems: TextProblem[],
  depth: number,
): void {
  const { keys } = pair.key;
  let here = table;
  for (const [i, key] of keys.entries()) {
    const at = positionOfNode(key);
    const name = key.type === "TOMLBare" ? key.name : key.value;
    if (depth + i > depthMax) {
      problems.push({ at, text: tooDeep });
      return;
    }
    if (i === keys.length - 1) {
      const value = locate(pair.value, problems, depth + i + 1);
      here.entries.set(name, { at, value });
    } else {
      const entry: Entry = here.entries.get(name) ?? { at, value: emptyTable(at) };
      here.entries.set(name, entry);
      here = entry.value as LocatedTable;
    }
  }
}

function locate(node: AST.TOMLContentNode, problems: TextProblem[], depth: number): Located {
  const at = positionOfNode(node);
  if (node.type === "TOMLValue") return { kind: "value", at, value: scalarOf(node) };
  if (depth > depthMax) {
    problems.push({ at, text: tooDeep });
    return emptyTable(at);
  }
  if (node.type === "TOMLArray") {
    return {
      kind: "list",
      at,
      items: node.elements.map((each) => locate(each, problems, depth + 1)),
    };
  }
  const table = emptyTable(at);
  for (const pair of node.body) addPair(table, pair, problems, depth);
  return table;
}

function scalarOf(node: AST.TOMLValue): unknown {
  switch (node.kind) {
    case "string":
    case "boolean":
      return node.value;
    case "integer":
      return Number.isSafeInteger(node.value) ? node.value : unusable(node.number);
    case "float":
      return unusable(node.number);
    default:
      return unusable(node.datetime);
  }
}
