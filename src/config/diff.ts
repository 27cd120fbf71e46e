/**
 * What a new configuration changes, line by line, by the settings that apply: where they are set
 * makes no difference. Pure.
 */

import { effectiveSettings } from "./effective.ts";
import type { Written } from "./kinds.ts";
import { configurationKind, type Settings } from "./settings.ts";

/** One difference, as `tproxy reload` prints it. */
export interface Change {
  readonly sign: "+" | "-" | "~";
  /** `pool web: upstream web1: weight 100 -> 50` */
  readonly text: string;
}

/** What a new configuration comes to. */
export interface Difference {
  readonly changes: readonly Change[];
  /** The changes among them that a running process cannot take over. */
  readonly upgrades: readonly Change[];
}

type Tree = { readonly [key: string]: Written };

/** Settings of all of a process that may change while it runs. */
const changeable = [
  ...["version", "drain-timeout", "strict-limits", "routes.install", "log.level", "log.sample"],
  ...["log.connections"],
];

/** What is left of `defaults` applies to services' own upstreams, which may change. */
function isChangeable(path: string): boolean {
  return changeable.includes(path) || path === "defaults" || path.startsWith("defaults.");
}

/** Settings of a listening socket: of one that stays they cannot change. */
const ofSockets = ["transparent", "redirect", "client-first", "fast-open", "path"];

/** The changes from `before` to `after`; none where both do the same. */
export function difference(before: Settings, after: Settings): Difference {
  const [old, next] = [before, after].map(
    (settings) => configurationKind.write(effectiveSettings(settings)) as Tree,
  ) as [Tree, Tree];
  const { pool: oldPools, service: oldServices, ...oldRest } = old;
  const { pool, service, ...rest } = next;
  const own = leaves("", oldRest, rest);
  const services = named("service", tables(oldServices), tables(service));
  return {
    changes: [
      ...own,
      ...named("pool", tables(oldPools), tables(pool)),
      ...services,
      ...changedOrder(tables(oldServices), tables(service), next),
      ...changedLists(before, after),
    ].map(withoutPath),
    upgrades: [
      ...own.filter(({ path }) => !isChangeable(path)),
      // What is set on one side alone is of a protocol that is new, or gone.
      ...services.filter(({ path, isOnBoth }) => isOnBoth && ofSockets.includes(path)),
    ].map(withoutPath),
  };
}

/** The line of a change. */
export function changeLine({ sign, text }: Change): string {
  return `${sign} ${text}`;
}

/** A change and the setting that it is about; empty for a whole service or pool. */
interface Located extends Change {
  readonly path: string;
  /** It has a value before and after. */
  readonly isOnBoth?: boolean;
}

function withoutPath({ sign, text }: Located): Change {
  return { sign, text };
}

function tables(list: Written | undefined): readonly Tree[] {
  return Array.isArray(list) ? (list as readonly Tree[]) : [];
}

function isTree(value: Written | undefined): value is Tree {
  return typeof value === "object" && !Array.isArray(value);
}

/** What differs between lists of tables that have names. */
function named(kind: string, before: readonly Tree[], after: readonly Tree[]): Located[] {
  const byName = (list: readonly Tree[]) => new Map(list.map((each) => [nameOf(each), each]));
  const [old, next] = [byName(before), byName(after)];
  const changes: Located[] = [];
  for (const [name, table] of old) {
    const now = next.get(name);
    const owner = `${kind} ${name}`;
    if (now === undefined) changes.push({ sign: "-", text: owner, path: "" });
    else changes.push(...leaves("", table, now).map((each) => ofOwner(owner, each)));
  }
  for (const [name, table] of next) {
    if (old.has(name)) continue;
    changes.push({ sign: "+", text: `${kind} ${name}${summaryOf(table)}`, path: "" });
  }
  return changes;
}

function nameOf({ name, to }: Tree): string {
  return textOf(name ?? to);
}

function ofOwner(owner: string, change: Located): Located {
  return { ...change, text: `${owner}: ${change.text}` };
}

function summaryOf({ listen, to }: Tree): string {
  if (listen !== undefined) return `: listen ${textOf(listen)}`;
  return to === undefined ? "" : `: ${textOf(to)}`;
}

/** What differs between two tables, setting by setting. */
function leaves(prefix: string, before: Tree, after: Tree): Located[] {
  const changes: Located[] = [];
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [old, next] = [before[key], after[key]];
    const path = `${prefix}${key}`;
    if (JSON.stringify(old) === JSON.stringify(next)) continue;
    if (key === "name") continue;
    if (key === "upstream") changes.push(...named(key, tables(old), tables(next)));
    else if (isTree(old) && isTree(next)) changes.push(...leaves(`${path}.`, old, next));
    else if (key === "listen") changes.push({ sign: "~", text: listText(path, old, next), path });
    else {
      const isOnBoth = old !== undefined && next !== undefined;
      const text = `${path} ${textOf(old)} -> ${textOf(next)}`;
      changes.push({ sign: "~", text, path, isOnBoth });
    }
  }
  return changes;
}

/** A list with what comes and what goes: `listen + :81 - :80`. */
function listText(path: string, before: Written | undefined, after: Written | undefined): string {
  const items = (value: Written | undefined) =>
    (Array.isArray(value) ? value : [value]).map((each) => textOf(each));
  const [old, next] = [items(before), items(after)];
  const coming = next.filter((each) => !old.includes(each)).map((each) => ` + ${each}`);
  const going = old.filter((each) => !next.includes(each)).map((each) => ` - ${each}`);
  const moved = coming.length + going.length === 0 ? " in another order" : "";
  return path + coming.join("") + going.join("") + moved;
}

function textOf(value: Written | undefined): string {
  if (value === undefined) return "(none)";
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  if (typeof value !== "object") return String(value);
  // A table that appears, or goes, as a whole: `type http; path /health`.
  const settings = Object.entries(value).map(([key, each]) => `${key} ${textOf(each)}`);
  return settings.join("; ");
}

/** Of several services that would capture a packet, the first one in the configuration gets it. */
function changedOrder(before: readonly Tree[], after: readonly Tree[], all: Tree): Located[] {
  const { routes } = all as { routes?: { install?: string } };
  const [old, next] = [new Set(before.map(nameOf)), new Set(after.map(nameOf))];
  const stayed = [...old].filter((name) => next.has(name));
  const now = [...next].filter((name) => old.has(name));
  if (routes?.install !== "auto" || stayed.join() === now.join()) return [];
  return [{ sign: "~", text: `services in another order: ${now.join(", ")}`, path: "" }];
}

/** Lists of networks in files whose text is another one, although the files are the same. */
function changedLists(before: Settings, after: Settings): Located[] {
  const [old, next] = [listsOf(before), listsOf(after)];
  return [...next].flatMap(([file, text]): Located[] => {
    const known = old.get(file);
    if (known === undefined || known === text) return [];
    return [{ sign: "~", text: `the list @${file} has changed`, path: "" }];
  });
}

/** By file, the text of each list that settings name. */
function listsOf(settings: unknown, found = new Map<string, string>()): Map<string, string> {
  if (typeof settings !== "object" || settings === null) return found;
  const { file, text } = settings as { file?: unknown; text?: unknown };
  if (typeof file === "string" && typeof text === "string") found.set(file, text);
  else for (const inner of Object.values(settings)) listsOf(inner, found);
  return found;
}
