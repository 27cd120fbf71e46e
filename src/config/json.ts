/** JSON of the same shape as values with their places. Pure. */

import { type Node, type ParseError, parseTree, printParseErrorCode } from "jsonc-parser";
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

/** Reads JSON, without comments. Reports the first syntax error; throws nothing. */
export function readJson(text: string): ReadText {
  const errors: ParseError[] = [];
  const at = positions(text);
  let tree: Node | undefined;
  try {
    tree = parseTree(text, errors, { disallowComments: true, allowTrailingComma: false });
  } catch (error) {
    // Thousands of brackets exceed the parser's stack.
    const text = error instanceof RangeError ? "is nested too deeply" : String(error);
    return { root: emptyTable(start), problems: [{ at: start, text }] };
  }
  const problems: TextProblem[] = [];
  const [first] = errors;
  if (first !== undefined) {
    const words = printParseErrorCode(first.error).replace(/(?<=[a-z])(?=[A-Z])/g, " ");
    problems.push({ at: at(first.offset), text: `this is not JSON: ${words.toLowerCase()}` });
    return { root: emptyTable(start), problems };
  }
  const root = tree === undefined ? undefined : locate(tree, { text, at, problems }, 0);
  if (root?.kind === "table") return { root, problems };
  problems.push({ at: start, text: "the configuration is not an object: give one, {…}" });
  return { root: emptyTable(start), problems };
}

/** Finds the line and column of an offset. */
function positions(text: string): (offset: number) => Position {
  const starts = [0];
  for (let i = text.indexOf("\n"); i >= 0; i = text.indexOf("\n", i + 1)) starts.push(i + 1);
  return (offset) => {
    let [low, high] = [0, starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((starts[middle] as number) <= offset) low = middle;
      else high = middle - 1;
    }
    return { line: low + 1, column: offset - (starts[low] as number) + 1 };
  };
}

interface Reading {
  readonly text: string;
  readonly at: (offset: number) => Position;
  readonly problems: TextProblem[];
}

function locate(node: Node, reading: Reading, depth: number): Located {
  const at = reading.at(node.offset);
  const { children = [] } = node;
  if (depth > depthMax) {
    reading.problems.push({ at, text: tooDeep });
    return emptyTable(at);
  }
  if (node.type === "array") {
    return { kind: "list", at, items: children.map((each) => locate(each, reading, depth + 1)) };
  }
  if (node.type === "object") {
    const entries = new Map<string, Entry>();
    for (const { children: pair = [] } of children) addEntry(entries, pair, reading, depth);
    return { kind: "table", at, entries };
  }
  return { kind: "value", at, value: scalarOf(node, reading) };
}

function addEntry(
  entries: Map<string, Entry>,
  [key, value]: readonly Node[],
  reading: Reading,
  depth: number,
): void {
  if (key === undefined || value === undefined) return;
  const at = reading.at(key.offset);
  const name = String(key.value);
  if (entries.has(name)) {
    reading.problems.push({ at, text: `${quote(name)} is set twice: leave one of them out` });
  }
  entries.set(name, { at, value: locate(value, reading, depth + 1) });
}

function scalarOf({ type, value, offset, length }: Node, { text }: Reading): unknown {
  if (type !== "number") return value;
  const written = text.slice(offset, offset + length);
  return /^-?[0-9]+$/.test(written) && Number.isSafeInteger(value) ? value : unusable(written);
}
