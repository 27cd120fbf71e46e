/** The rules of this codebase: each takes the facts of all files and answers what breaks it. */

import type { Facts, Files } from "./facts.ts";
import {
  CODECS,
  ENGINE_VALUES,
  FLAGS_ALLOWED,
  FOREIGN_COMMANDS,
  isPure,
  KERNEL_NAMES,
  LONG_LINES,
  layerOf,
  NETLINK_NAME,
  OLD_WORDING,
  PROSE,
  PURE_GLOBALS,
  TABLES,
  TEST_ONLY_EXPORTS,
} from "./policy.ts";

const LINE_LENGTH = 100;
const FUNCTION_LINES = 70;
const FILE_LINES = 400;
const TEST_FILE_LINES = 600;

/** Where programs start: nothing imports these, and everything else is reached from them. */
const ENTRY_POINTS = ["src/main.ts", "src/worker.ts", "build.ts", "build/package/main.ts"];

/** `path:line: what is wrong`, for a person to read. */
export type Problem = string;

const at = (path: string, line: number, text: string): Problem => `${path}:${line}: ${text}`;
const isTest = (path: string) => path.startsWith("test/");
const isProduct = (path: string) => /^(src|ffi|build)\//.test(path);

/** Imports go down the layers of `policy.ts` only, and no layer sees one beside it. */
export function dependencyDirection(facts: readonly Facts[]): Problem[] {
  const problems: Problem[] = [];
  for (const file of facts.filter(({ path }) => isProduct(path))) {
    const own = layerOf(file.path);
    if (own === undefined) problems.push(at(file.path, 1, "is in no layer of test/tidy/policy.ts"));
    for (const { from, line } of file.imports.filter((each) => isProduct(each.from))) {
      const other = layerOf(from);
      if (own === undefined || other === undefined || own.name === other.name) continue;
      if (other.rank >= own.rank) {
        problems.push(at(file.path, line, `${own.name} must not import ${other.name} (${from})`));
      }
    }
    for (const { from, line } of file.imports.filter((each) => isTest(each.from))) {
      problems.push(at(file.path, line, `imports a test (${from})`));
    }
  }
  return problems;
}

/** The command line has arguments, help and output; sockets and Workers are control's to run. */
export function commandLine(facts: readonly Facts[]): Problem[] {
  const isControls = (path: string) =>
    ["ffi/sys.ts", "src/workers/pool.ts"].includes(path) ||
    (path.startsWith("src/engine/") && !ENGINE_VALUES.includes(path));
  return facts
    .filter(({ path }) => path.startsWith("src/cli/"))
    .flatMap(({ path, imports }) =>
      imports
        .filter(({ from, typeOnly }) => !typeOnly && isControls(from))
        .map(({ from, line }) => at(path, line, `runs something itself (${from})`)),
    );
}

/** Pure modules import pure modules and plain packages, and use no clock, process or network. */
export function purity(facts: readonly Facts[]): Problem[] {
  const problems: Problem[] = [];
  for (const file of facts.filter(({ path }) => isProduct(path) && isPure(path))) {
    for (const { from, line, typeOnly } of file.imports) {
      const impure = isProduct(from) ? !isPure(from) : /^(node:|bun)/.test(from);
      if (impure && !typeOnly) problems.push(at(file.path, line, `pure, but imports ${from}`));
    }
    for (const name of PURE_GLOBALS) {
      const line = file.identifiers.get(name);
      if (line !== undefined) problems.push(at(file.path, line, `pure, but uses ${name}`));
    }
  }
  return problems;
}

/** `ffi/libc.ts` alone opens libraries, `ffi/memory.ts` alone takes addresses. */
export function foreignFunctions(facts: readonly Facts[]): Problem[] {
  const owners: Record<string, string[]> = {
    "ffi/libc.ts": ["dlopen", "toArrayBuffer", "Pointer"],
    "ffi/memory.ts": ["ptr"],
  };
  return facts.flatMap((file) =>
    file.imports
      .filter(({ from }) => from === "bun:ffi")
      .flatMap(({ names, line }) =>
        names
          .filter((name) => !owners[file.path]?.includes(name))
          .map((name) => at(file.path, line, `"${name}" of bun:ffi is not for this file`)),
      ),
  );
}

/** The kernel's numbers for netlink and netfilter are typed in ffi/ alone, where C checks them. */
export function kernelNumbers(facts: readonly Facts[]): Problem[] {
  return facts
    .filter(({ path }) => isProduct(path) && !path.startsWith("ffi/"))
    .flatMap(({ path, text }) =>
      text.split("\n").flatMap((line, index) => {
        const name = NETLINK_NAME.exec(line)?.[1];
        return name === undefined ? [] : [at(path, index + 1, `"${name}" belongs into ffi/`)];
      }),
    );
}

/** Lines of 100 characters, functions of 70 lines, files of 400 and tests of 600. */
export function sizes(facts: readonly Facts[]): Problem[] {
  const problems: Problem[] = [];
  for (const { path, text, functions } of facts) {
    const lines = text.split("\n");
    const most = isTest(path) ? TEST_FILE_LINES : FILE_LINES;
    const count = lines.at(-1) === "" ? lines.length - 1 : lines.length;
    if (count > most) problems.push(at(path, most, `${count} lines, at most ${most}`));
    for (const [index, line] of LONG_LINES[path] === undefined ? lines.entries() : []) {
      const length = [...line].length;
      if (length > LINE_LENGTH) problems.push(at(path, index + 1, `${length} characters`));
    }
    for (const { name, line, lines: own } of functions) {
      if (own > FUNCTION_LINES) problems.push(at(path, line, `"${name}" has ${own} lines`));
    }
  }
  return problems;
}

/** Nothing is imported in a circle, types included. */
export function cycles(facts: readonly Facts[]): Problem[] {
  const imports = new Map(facts.map((file) => [file.path, file.imports.map(({ from }) => from)]));
  const done = new Set<string>();
  const problems: Problem[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path);
    if (start >= 0) {
      problems.push(at(path, 1, `import cycle: ${[...trail.slice(start), path].join(" -> ")}`));
      return;
    }
    if (done.has(path)) return;
    for (const next of imports.get(path) ?? []) visit(next, [...trail, path]);
    done.add(path);
  };
  for (const path of imports.keys()) visit(path, []);
  return problems;
}

/** Every file of ffi/, src/ and build/ is reached from an entry point. */
export function unusedFiles(facts: readonly Facts[]): Problem[] {
  const byPath = new Map(facts.map((file) => [file.path, file]));
  const reached = new Set<string>();
  const reach = (path: string): void => {
    if (reached.has(path)) return;
    reached.add(path);
    for (const { from } of byPath.get(path)?.imports ?? []) reach(from);
  };
  for (const path of ENTRY_POINTS) reach(path);
  // Declarations of types are the compiler's alone.
  const isCode = (path: string) => isProduct(path) && !path.endsWith(".d.ts");
  return facts
    .filter(({ path }) => isCode(path) && !reached.has(path))
    .map(({ path }) => at(path, 1, "is imported by no part of the program"));
}

/** Every export of ffi/, src/ and build/ is imported by another file that is not a test. */
export function unusedExports(facts: readonly Facts[]): Problem[] {
  const users = new Map<string, Set<string>>();
  for (const file of facts) {
    for (const { from, names } of file.imports) {
      for (const name of names) {
        const key = `${from}#${name}`;
        users.set(key, (users.get(key) ?? new Set()).add(isTest(file.path) ? "test" : "program"));
      }
    }
  }
  const problems: Problem[] = [];
  for (const file of facts.filter(({ path }) => isProduct(path) && !TABLES.includes(path))) {
    for (const { name, kind, mentions, line } of file.exports) {
      if (kind === "type" && mentions > 0) continue;
      if (file.path.startsWith(KERNEL_NAMES) && /^[A-Z][A-Z0-9_]+$/.test(name)) continue;
      const key = `${file.path}#${name}`;
      const by = new Set([...(users.get(key) ?? []), ...(users.get(`${file.path}#*`) ?? [])]);
      if (by.has("program")) continue;
      if (by.size === 0) problems.push(at(file.path, line, `export "${name}" is unused`));
      else if (!file.path.startsWith(CODECS) && TEST_ONLY_EXPORTS[key] === undefined) {
        problems.push(at(file.path, line, `export "${name}" is used by tests alone`));
      }
    }
  }
  return problems;
}

/** Exported functions of ffi/, src/ and build/ say what they do. */
export function documentation(facts: readonly Facts[]): Problem[] {
  return facts
    .filter(({ path }) => isProduct(path))
    .flatMap(({ path, exports }) =>
      exports
        .filter(({ kind, documented }) => kind === "function" && !documented)
        .map(({ name, line }) => at(path, line, `"${name}" has no comment`)),
    );
}

// Put together from pieces, so that these lines do not find themselves.
const LEFTOVERS: readonly [pattern: RegExp, what: string][] = [
  [new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X"].join("|")})\\b`), "unfinished work"],
  [new RegExp(`\\bconsole${"\\."}(log|error|warn|debug)\\(`), "console output"],
  [new RegExp(`\\b(describe|test|it)${"\\."}only\\b`), "a test that hides the others"],
  [new RegExp(`^\\s*debug${"ger"};`), "a breakpoint"],
];

const FORBIDDEN: readonly [pattern: RegExp, what: string][] = [
  [
    new RegExp(`\\b(registry\\.)?npm${"js"}\\.(org|com)\\b|\\bj${"sr"}\\.io\\b`),
    "a registry's host",
  ],
  [new RegExp(`(^|[^\\w$.])/(wo${"rk"}|ro${"ot"}|ho${"me"})(/|\\b(?![\\w-]))`), "a machine's path"],
  [new RegExp(`\\b(design|notes/\\w+)\\.(m${"d"}|r${"st"})\\b`), "a file that is not here"],
];

/** Nothing unfinished is left in the code. */
export function leftovers(files: Files): Problem[] {
  return matches(files, (path) => path.endsWith(".ts"), LEFTOVERS);
}

/** No file, of any kind, names a registry's host or a path of somebody's machine. */
export function forbiddenWords(files: Files): Problem[] {
  return matches(files, (path) => path !== "bun.lock", FORBIDDEN);
}

/** Comments, messages and documents use none of the words that only the old wording had. */
export function oldWording(files: Files): Problem[] {
  const patterns = Object.entries(OLD_WORDING).map(([words, instead]): [RegExp, string] => [
    // Lines of comments and of documents break anywhere.
    new RegExp(`\\b${words.replaceAll(" ", "[\\s*/]+")}\\b`, "gi"),
    `"${words}" is old wording: ${instead}`,
  ]);
  return Object.entries(files)
    .filter(([path]) => PROSE.test(path))
    .flatMap(([path, text]) =>
      patterns.flatMap(([pattern, what]) =>
        [...text.matchAll(pattern)].map(({ index }) =>
          at(path, text.slice(0, index).split("\n").length, what),
        ),
      ),
    );
}

/** Layers below the command line name a setting, never the flag that sets it. */
export function flagNames(files: Files): Problem[] {
  const isIn = (path: string, folders: readonly string[]) =>
    folders.some((prefix) => path.startsWith(prefix));
  const concerns = (path: string) => /^(src|ffi)\/.*\.ts$/.test(path) && !isIn(path, FLAGS_ALLOWED);
  // A flag in a string, as people would type it. Comments may name flags, and so may a text that
  // has the whole command: `tproxy routes --remove` is the same whoever reads it.
  const whole = "(?:tproxy|curl|docker|firewall-cmd|-j TPROXY) ";
  const flag = `(?<![\\w-])--[a-z][a-z0-9.-]+`;
  const text = `^(?!\\s*(?:\\/?\\*|\\/\\/)).*?["'\`](?:(?!${whole})[^"'\`])*${flag}`;
  const bare = Object.entries(files).map(([path, content]) => {
    // In a command of another program, a string that is one word of it.
    const shown = isIn(path, FOREIGN_COMMANDS)
      ? content.replace(/(["'])--[\w.-]+\1/g, '""')
      : content;
    return [path, shown] as const;
  });
  return matches(Object.fromEntries(bare), concerns, [[new RegExp(text), "names a flag"]]);
}

function matches(
  files: Files,
  concerns: (path: string) => boolean,
  patterns: readonly [RegExp, string][],
): Problem[] {
  const problems: Problem[] = [];
  for (const [path, text] of Object.entries(files).filter(([each]) => concerns(each))) {
    for (const [index, line] of text.split("\n").entries()) {
      for (const [pattern, what] of patterns) {
        const found = pattern.exec(line)?.[0];
        if (found !== undefined) problems.push(at(path, index + 1, `${what}: ${found.trim()}`));
      }
    }
  }
  return problems;
}
