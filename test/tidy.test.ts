/** The rules of `test/tidy/` on this repository, and on small inputs that break each of them. */

import { describe, expect, test } from "bun:test";
import { type Facts, type Files, readFacts } from "./tidy/facts.ts";
import { repositoryFiles } from "./tidy/repository.ts";
import * as rules from "./tidy/rules.ts";

const treeRules = [
  rules.dependencyDirection,
  rules.purity,
  rules.foreignFunctions,
  rules.kernelNumbers,
  rules.sizes,
  rules.cycles,
  rules.unusedFiles,
  rules.unusedExports,
  rules.commandLine,
  rules.documentation,
];

const files = await repositoryFiles();
const facts = await readFacts(files);

describe("this repository keeps its rules:", () => {
  test("it was read", () => {
    expect(facts.length).toBeGreaterThan(10);
    expect(facts.map(({ path }) => path)).toContain("ffi/sys.ts");
  });
  for (const rule of treeRules) {
    test(rule.name, () => expect(rule(facts)).toEqual([]));
  }
  for (const rule of [rules.leftovers, rules.forbiddenWords, rules.oldWording, rules.flagNames]) {
    test(rule.name, () => expect(rule(files)).toEqual([]));
  }
});

/** One broken tree: the rule, what is wrong with it, its files and what the rule must answer. */
type Broken = [
  rule: (facts: readonly Facts[]) => string[],
  what: string,
  files: Files,
  expected: string[],
];

const broken: Broken[] = [
  [
    rules.dependencyDirection,
    "upwards, sideways, unplaced, into tests",
    {
      "ffi/a.ts": 'import { b } from "../src/net/b.ts";',
      "src/listen/c.ts": 'const d = await import("../connect/d.ts");\nimport "../engine/e.ts";',
      "src/odd/e.ts": "",
      "src/net/f.ts": 'import "../../test/helpers/g.ts";',
    },
    [
      "ffi/a.ts:1: ffi must not import src/net (src/net/b.ts)",
      "src/listen/c.ts:1: src/listen must not import src/connect (src/connect/d.ts)",
      "src/odd/e.ts:1: is in no layer of test/tidy/policy.ts",
      "src/net/f.ts:1: imports a test (test/helpers/g.ts)",
    ],
  ],
  [
    rules.purity,
    "a system call, a built-in and the clock",
    {
      "src/net/a.ts": 'import { close } from "../../ffi/sys.ts";\nimport "node:fs";',
      "src/capture/plan/b.ts":
        "export const now = () => Date.now();\nconst of = (x: any) => x.process;",
      "src/proto/c.ts": 'import type { NativeBuffer } from "../../ffi/memory.ts";',
      "src/engine/d.ts": "process.exit(0);",
    },
    [
      "src/net/a.ts:1: pure, but imports ffi/sys.ts",
      "src/net/a.ts:2: pure, but imports node:fs",
      "src/capture/plan/b.ts:1: pure, but uses Date",
    ],
  ],
  [
    rules.foreignFunctions,
    "dlopen and ptr anywhere else",
    {
      "ffi/libc.ts": 'import { dlopen } from "bun:ffi";',
      "ffi/memory.ts": 'import { dlopen, ptr } from "bun:ffi";',
      "src/engine/a.ts": 'import { ptr as address } from "bun:ffi";',
      "test/b.ts": 'import * as ffi from "bun:ffi";',
    },
    [
      'ffi/memory.ts:1: "dlopen" of bun:ffi is not for this file',
      'src/engine/a.ts:1: "ptr" of bun:ffi is not for this file',
      'test/b.ts:1: "*" of bun:ffi is not for this file',
    ],
  ],
  [
    rules.sizes,
    "a long line, function and file",
    {
      "src/a.ts": `const text = "${"x".repeat(100)}";\n`,
      "src/b.ts": `function long() {${"\n".repeat(70)}}\n`,
      "src/c.ts": `const short = () => {${"\n".repeat(69)}};\n${"\n".repeat(400)}`,
      "test/d.ts": `describe("all", () => {${"\n".repeat(500)}});\n`,
    },
    [
      "src/a.ts:1: 116 characters",
      'src/b.ts:1: "long" has 71 lines',
      "src/c.ts:400: 470 lines, at most 400",
    ],
  ],
  [
    rules.cycles,
    "a circle of three",
    {
      "src/a.ts": 'import "./b.ts";',
      "src/b.ts": 'import type { C } from "./c.ts";',
      "src/c.ts": 'export { A } from "./a.ts";',
      "src/d.ts": 'import "./a.ts";',
    },
    ["src/a.ts:1: import cycle: src/a.ts -> src/b.ts -> src/c.ts -> src/a.ts"],
  ],
  [
    rules.unusedFiles,
    "a file that tests alone import",
    {
      "src/main.ts": 'await import("./cli/a.ts");',
      "src/cli/a.ts": "",
      "src/cli/b.ts": "",
      "test/c.ts": 'import "../src/cli/b.ts";',
    },
    ["src/cli/b.ts:1: is imported by no part of the program"],
  ],
  [
    rules.unusedExports,
    "exports for nobody and for tests",
    {
      "src/a.ts":
        "export const used = 1;\nexport const idle = 2;\nexport const tested = 3;\n" +
        "export interface Signature {}\nexport type Idle = 1;\n" +
        "export function f(): Signature { return {}; }\n",
      "src/b.ts": 'import { used, f as g } from "./a.ts";',
      "test/c.ts": 'import { tested, used } from "../src/a.ts";',
    },
    [
      'src/a.ts:2: export "idle" is unused',
      'src/a.ts:3: export "tested" is used by tests alone',
      'src/a.ts:5: export "Idle" is unused',
    ],
  ],
  [
    rules.unusedExports,
    "of an expression's file all but the kernel's names",
    {
      "ffi/netlink/nftables/expr/a.ts":
        "export const NFTA_A_KEY = 1;\nexport const aCodec = NFTA_A_KEY;\nexport type A = 1;\n",
    },
    [
      'ffi/netlink/nftables/expr/a.ts:2: export "aCodec" is unused',
      'ffi/netlink/nftables/expr/a.ts:3: export "A" is unused',
    ],
  ],
  [
    rules.kernelNumbers,
    "a constant of nf_tables typed again",
    {
      "src/capture/a.ts": "const NFTA_REDIR_FLAGS = 3;\nconst { NFTA_X } = y;\nconst XTAL_A = 1;",
      "ffi/b.ts": "const XT_RETURN = -5;",
      "src/diagnose/c.ts": "  const RT_SCOPE_LINK = 253;",
    },
    [
      'src/capture/a.ts:1: "NFTA_REDIR_FLAGS" belongs into ffi/',
      'src/diagnose/c.ts:1: "RT_SCOPE_LINK" belongs into ffi/',
    ],
  ],
  [
    rules.commandLine,
    "a command with a socket and Workers of its own",
    {
      "src/cli/a.ts":
        'import { close } from "../../ffi/sys.ts";\n' +
        'import { WorkerPool } from "../workers/pool.ts";\n' +
        'import type { Fd } from "../engine/b.ts";\nimport { backlog } from "../engine/limits.ts";',
      "src/control/c.ts": 'import { WorkerPool } from "../workers/pool.ts";',
      "ffi/sys.ts": "",
      "src/workers/pool.ts": "",
      "src/engine/b.ts": "",
      "src/engine/limits.ts": "",
    },
    [
      "src/cli/a.ts:1: runs something itself (ffi/sys.ts)",
      "src/cli/a.ts:2: runs something itself (src/workers/pool.ts)",
    ],
  ],
  [
    rules.documentation,
    "a bare function",
    {
      "src/a.ts": "/** Says it. */\nexport function a() {}\n// not so\nexport function b() {}",
    },
    ['src/a.ts:4: "b" has no comment'],
  ],
];

describe("every rule can fail:", () => {
  for (const [rule, what, input, expected] of broken) {
    test(`${rule.name}: ${what}`, async () => {
      expect(rule(await readFacts(input))).toEqual(expected);
    });
  }

  test("leftovers", () => {
    const words = [`// ${"TO"}DO later`, `console${"."}log(1)`, `test${"."}only("x")`];
    const text = words.join("\n");
    expect(rules.leftovers({ "src/a.ts": text, "README.md": text })).toHaveLength(3);
  });

  test("forbiddenWords", () => {
    const text = [
      `see /${"work"}/main`,
      `"/${"root"}"`,
      `https://www.npm${"js"}.com/x`,
      `as in notes/kernel.${"md"}`,
      "file:///$bunfs/root/worker.js of network/workers and /rooted",
    ].join("\n");
    const problems = rules.forbiddenWords({ "README.md": text });
    expect(problems.map((problem) => problem.split(":")[1])).toEqual(["1", "2", "3", "4"]);
  });

  test("flagNames", () => {
    const text =
      '// Set by --mark.\n/** `--mark` */\nconst a = "give --mark";\nfor (;;) --index;\n' +
      'const b = "or `tproxy routes --remove`";\nconst c = ["--mark", mark];\n';
    const files = { "src/forward/a.ts": text, "src/cli/b.ts": text };
    expect(rules.flagNames(files)).toEqual([
      'src/forward/a.ts:3: names a flag: const a = "give --mark',
      'src/forward/a.ts:6: names a flag: const c = ["--mark',
    ]);
    // A command line of iptables.
    expect(rules.flagNames({ "src/capture/render/a.ts": text })).toEqual([
      'src/capture/render/a.ts:3: names a flag: const a = "give --mark',
    ]);
  });

  test("oldWording", () => {
    const text = '/** Whoever asks.\n * It is put\n * up with. */\nconst a = "for want of it";\n';
    const files = { "src/a.ts": text, "docs/b.md": "\nwait in vain", "test/c.ts": text };
    expect(rules.oldWording(files)).toEqual([
      'src/a.ts:4: "for want of" is old wording: for lack of',
      'src/a.ts:2: "put up with" is old wording: accept, or a limit',
      'src/a.ts:1: "whoever" is old wording: name the actor',
      'docs/b.md:2: "in vain" is old wording: say what does not happen',
    ]);
    const spared = { "src/a.ts": "in various ways, of latency", "CHANGELOG.md": "whoever" };
    expect(rules.oldWording(spared)).toEqual([]);
  });
});
