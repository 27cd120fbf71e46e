/** What the tidy rules need to know of a source file, read from TypeScript's own syntax tree. */

import { posix } from "node:path";
import {
  isFunctionLikeDeclaration,
  type Node,
  type SourceFile,
  SyntaxKind,
} from "typescript/unstable/ast";
import * as is from "typescript/unstable/ast/is";
import { API } from "typescript/unstable/async";
import { createVirtualFileSystem } from "typescript/unstable/fs";

/** Paths relative to the repository -> texts. */
export type Files = Readonly<Record<string, string>>;

export interface Import {
  /** A path in the repository when relative, otherwise the specifier as written. */
  readonly from: string;
  /** The imported names; `*` for all of them (a namespace, a dynamic import). */
  readonly names: readonly string[];
  readonly typeOnly: boolean;
  readonly line: number;
}

export interface Export {
  readonly name: string;
  readonly kind: "type" | "function" | "value";
  readonly documented: boolean;
  /** A type that another declaration of the same file mentions is part of that one's signature. */
  readonly mentions: number;
  readonly line: number;
}

export interface FunctionFact {
  readonly name: string;
  readonly line: number;
  readonly lines: number;
}

export interface Facts {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly Import[];
  readonly exports: readonly Export[];
  readonly functions: readonly FunctionFact[];
  /** Identifiers that are not member names, with the line of their first use. */
  readonly identifiers: ReadonlyMap<string, number>;
}

/** Parses all `.ts` files of `files`; nothing is read from the disk. */
export async function readFacts(files: Files): Promise<Facts[]> {
  const sources = Object.entries(files).filter(([path]) => path.endsWith(".ts"));
  const virtual: Record<string, string> = {
    "/repository/tsconfig.json": JSON.stringify({
      compilerOptions: { noLib: true, noResolve: true, types: [], module: "Preserve" },
      files: sources.map(([path]) => path),
    }),
  };
  for (const [path, text] of sources) virtual[`/repository/${path}`] = text;
  const api = new API({ cwd: "/repository", fs: createVirtualFileSystem(virtual) });
  try {
    const snapshot = await api.updateSnapshot({ openProjects: ["/repository/tsconfig.json"] });
    const program = snapshot.getProjects()[0]?.program;
    const facts: Facts[] = [];
    for (const [path] of sources) {
      const source = await program?.getSourceFile(`/repository/${path}`);
      if (source === undefined) throw new Error(`${path}: not parsed`);
      facts.push(factsOf(path, source));
    }
    return facts;
  } finally {
    await api.close();
  }
}

function factsOf(path: string, source: SourceFile): Facts {
  const imports: Import[] = [];
  const exports: Export[] = [];
  const functions: FunctionFact[] = [];
  const identifiers = new Map<string, number>();
  const counts = new Map<string, number>();
  const lineAt = (position: number) => source.getLineAndCharacterOfPosition(position).line + 1;
  const resolve = (specifier: string) =>
    specifier.startsWith(".") ? posix.join(posix.dirname(path), specifier) : specifier;

  const visit = (node: Node, parent: Node): void => {
    if (is.isIdentifier(node)) {
      counts.set(node.text, (counts.get(node.text) ?? 0) + 1);
      if (!isMemberName(node, parent) && !identifiers.has(node.text)) {
        identifiers.set(node.text, lineAt(node.getStart(source)));
      }
    }
    const line = lineAt(node.getStart(source));
    imports.push(
      ...importsOf(node).map((found) => ({ ...found, from: resolve(found.from), line })),
    );
    if (isFunctionLikeDeclaration(node) && !isDescribe(parent)) {
      const lines = lineAt(node.getEnd()) - line + 1;
      functions.push({ name: nameOf(node) ?? nameOf(parent) ?? "anonymous", line, lines });
    }
    node.forEachChild((child) => visit(child, node));
  };
  visit(source, source);
  for (const statement of source.statements) {
    const line = lineAt(statement.getStart(source));
    const documented = /\/\*\*/.test(
      source.text.slice(statement.getFullStart(), statement.getStart(source)),
    );
    for (const { name, kind } of exportsOf(statement)) {
      exports.push({ name, kind, documented, mentions: (counts.get(name) ?? 1) - 1, line });
    }
  }
  return { path, text: source.text, imports, exports, functions, identifiers };
}

/** Whether an identifier names a member (`x.name`, `{ name: … }`) rather than a variable. */
function isMemberName(node: Node, parent: Node): boolean {
  const declares =
    is.isPropertyAccessExpression(parent) ||
    is.isPropertyAssignment(parent) ||
    parent.kind === SyntaxKind.PropertySignature ||
    parent.kind === SyntaxKind.PropertyDeclaration ||
    parent.kind === SyntaxKind.MethodDeclaration;
  return declares && (parent as { name?: Node }).name === node;
}

function nameOf(node: Node): string | undefined {
  const { name } = node as { name?: Node };
  return name !== undefined && is.isIdentifier(name) ? name.text : undefined;
}

/** `describe("…", () => {})` holds tests as a file does: its length says nothing. */
function isDescribe(node: Node): boolean {
  if (!is.isCallExpression(node)) return false;
  return /^describe\b/.test(node.expression.getText());
}

type Unplaced = Pick<Import, "from" | "names" | "typeOnly">;

function importsOf(node: Node): Unplaced[] {
  if (is.isImportDeclaration(node) && is.isStringLiteral(node.moduleSpecifier)) {
    const from = node.moduleSpecifier.text;
    const clause = node.importClause;
    if (clause === undefined) return [{ from, names: [], typeOnly: false }];
    const text = clause.getText();
    const names: string[] = clause.name === undefined ? [] : ["default"];
    const bindings = clause.namedBindings;
    if (bindings === undefined) return [{ from, names, typeOnly: text.startsWith("type ") }];
    if (is.isNamespaceImport(bindings)) names.push("*");
    else names.push(...bindings.elements.map((each) => (each.propertyName ?? each.name).text));
    const typed =
      !is.isNamespaceImport(bindings) &&
      clause.name === undefined &&
      bindings.elements.every((each) => each.isTypeOnly);
    return [{ from, names, typeOnly: text.startsWith("type ") || typed }];
  }
  if (is.isExportDeclaration(node)) {
    const from = node.moduleSpecifier;
    if (from === undefined || !is.isStringLiteral(from)) return [];
    const clause = node.exportClause;
    const names =
      clause !== undefined && is.isNamedExports(clause)
        ? clause.elements.map((each) => (each.propertyName ?? each.name).text)
        : ["*"];
    return [{ from: from.text, names, typeOnly: node.isTypeOnly }];
  }
  if (is.isCallExpression(node) && node.expression.getText() === "import") {
    const argument = node.arguments[0];
    if (argument !== undefined && is.isStringLiteral(argument)) {
      return [{ from: argument.text, names: ["*"], typeOnly: false }];
    }
  }
  return [];
}

function exportsOf(statement: Node): Pick<Export, "name" | "kind">[] {
  if (is.isExportDeclaration(statement)) {
    const clause = statement.exportClause;
    if (clause === undefined || !is.isNamedExports(clause)) return [];
    return clause.elements.map((each) => ({ name: each.name.text, kind: "value" }));
  }
  if (is.isExportAssignment(statement)) return [{ name: "default", kind: "value" }];
  const { modifiers } = statement as { modifiers?: readonly Node[] };
  if (!modifiers?.some((modifier) => modifier.getText() === "export")) return [];
  if (is.isVariableStatement(statement)) {
    return statement.declarationList.declarations.flatMap((declaration) => {
      const name = nameOf(declaration);
      return name === undefined ? [] : [{ name, kind: "value" as const }];
    });
  }
  const name = nameOf(statement);
  if (name === undefined) return [];
  if (is.isFunctionDeclaration(statement)) return [{ name, kind: "function" }];
  const type = is.isInterfaceDeclaration(statement) || is.isTypeAliasDeclaration(statement);
  return [{ name, kind: type ? "type" : "value" }];
}
