/**
 * Reads a configuration: a file, the files that it includes, and the lists that they name. What is
 * wrong is a problem with its place, never an exception. Pure but for the system that it is given.
 */

import * as v from "valibot";
import { configurationFilesMax } from "../engine/limits.ts";
import type { Path } from "../net/issue.ts";
import { quote } from "../net/result.ts";
import { checkCaptures } from "./capture-check.ts";
import { checkSettings, type Issue } from "./check.ts";
import { isTable, partOfValue } from "./kinds.ts";
import { type Located, type Position, plainValue, positionOf, specialKeys } from "./located.ts";
import { type NetworkFile, parseNetworkList } from "./networks.ts";
import type { ConfigProblem } from "./problem.ts";
import { type Configuration, complete } from "./service.ts";
import {
  configurationKind,
  includedKind,
  type PoolSettings,
  type ServiceSettings,
  type Settings,
} from "./settings.ts";
import {
  causes,
  type Origin,
  type Origins,
  originsOf,
  originText,
  placeOf,
  SourceFile,
  settingsAt,
} from "./sources.ts";
import { readQuickText, readText } from "./text.ts";
import { issueText, pathText } from "./words.ts";

/** What reading needs of the system. Each `read` and `list` may reject with a reason. */
export interface ConfigurationSystem {
  /** All of a file, `-` for standard input; bounded. */
  read(path: string): Promise<Uint8Array>;
  /** All of a list of networks; its bound is higher. */
  readList(path: string): Promise<Uint8Array>;
  /** A path that the file `from` names. */
  resolve(from: string, path: string): string;
  /** The files that a pattern in the file `from` stands for, sorted. */
  list(from: string, pattern: string): Promise<readonly string[]>;
  /** Identifies a file, whatever its name. */
  identity(path: string): Promise<string>;
  userId(name: string): number | undefined;
  groupId(name: string): number | undefined;
  /** What `workers = "auto"` stands for. */
  readonly cores: number;
}

/** What became of reading. Without problems there is a configuration. */
export interface ReadConfiguration {
  readonly problems: readonly ConfigProblem[];
  readonly settings: Settings;
  readonly configuration: Configuration | undefined;
  /** Where a setting comes from that applies at a path of the effective settings. */
  readonly originOf: (path: Path) => string;
}

/** Reads the configuration that begins in `file`. */
export async function readConfiguration(
  file: string,
  system: ConfigurationSystem,
): Promise<ReadConfiguration> {
  // Standard input can be read once.
  const once = { ...system, read: memoized((path: string) => system.read(path)) };
  const locate = memoized(readText);
  const quick = await new Reader(once, locate, readQuickText).readAll(file);
  if (quick.problems.length === 0) return quick;
  // The other parser reports better, and has the last word about what is TOML.
  return await new Reader(once, locate, () => undefined).readAll(file);
}

function memoized<T>(compute: (key: string) => T): (key: string) => T {
  const known = new Map<string, T>();
  return (key) => {
    const value = known.get(key) ?? compute(key);
    known.set(key, value);
    return value;
  };
}

class Reader {
  private readonly system: ConfigurationSystem;
  private readonly problems: ConfigProblem[] = [];
  /** Files in the order in which they were named. */
  private readonly order: string[] = [];
  /** Paths of which something is wrong already: no contradiction is looked for there. */
  private readonly broken = new Map<SourceFile, Path[]>();
  private readonly lists = new Map<string, Promise<string | Error>>();

  constructor(
    system: ConfigurationSystem,
    private readonly locate: typeof readText,
    private readonly readQuick: typeof readQuickText,
  ) {
    this.system = system;
  }

  async readAll(file: string): Promise<ReadConfiguration> {
    const main = await this.readFile(file, configurationKind.parsed);
    if (main === undefined) return this.result({}, () => "");
    const included = await this.readIncluded(main);
    const sources = [main, ...included];
    const origins = { pool: originsOf(sources, "pool"), service: originsOf(sources, "service") };
    const pool = origins.pool.map(settingsAt("pool")) as PoolSettings[];
    const service: ServiceSettings[] = [];
    for (const origin of origins.service) {
      const own = settingsAt("service")(origin) as ServiceSettings;
      service.push(await this.completeNames(origin, own));
    }
    const { pool: _, service: __, ...rest } = main.settings;
    const settings: Settings = { ...rest, pool, service };
    await this.readLists(main, ["defaults", "accept-proxy"], rest.defaults?.["accept-proxy"]);
    for (const issue of checkSettings(settings, this.system)) this.tell(issue, main, origins);
    for (const { path, text } of checkCaptures(settings)) {
      const place = placeOf(main, origins, path);
      this.addAt(place.source, place.path, text);
    }
    return this.result(settings, (path) => originText(main, origins, path));
  }

  private result(settings: Settings, originOf: (path: Path) => string): ReadConfiguration {
    const rank = new Map(this.order.map((file, i) => [file, i]));
    const problems = this.problems.sort(
      (a, b) =>
        (rank.get(a.file) ?? 0) - (rank.get(b.file) ?? 0) ||
        (a.at?.line ?? 0) - (b.at?.line ?? 0) ||
        (a.at?.column ?? 0) - (b.at?.column ?? 0),
    );
    const configuration = problems.length > 0 ? undefined : complete(settings);
    return { problems, settings, configuration, originOf };
  }

  private async readFile(file: string, schema: v.GenericSchema): Promise<SourceFile | undefined> {
    this.order.push(file);
    let bytes: Uint8Array;
    try {
      bytes = await this.system.read(file);
    } catch (error) {
      this.add(file, undefined, `cannot be read: ${reasonOf(error)}`);
      return undefined;
    }
    const text = decode(bytes);
    if (typeof text !== "string") {
      this.add(file, text, "this is not UTF-8");
      return undefined;
    }
    const quick = this.readQuick(text);
    // Places are for problems and for `config show`: most files need none.
    if (quick !== undefined) return this.parse(file, quick, () => this.locate(text).root, schema);
    const { problems, root } = this.locate(text);
    for (const { at, text } of problems) this.add(file, at, text);
    // Of a text that could not be read, no setting is missing.
    if (problems.length > 0) return undefined;
    this.refuseSpecialKeys(file, root);
    return this.parse(file, plainValue(root), () => root, schema);
  }

  private parse(
    file: string,
    value: unknown,
    locate: () => Located,
    schema: v.GenericSchema,
  ): SourceFile {
    const { output, issues = [] } = v.safeParse(schema, value);
    const source = new SourceFile(file, isTable(output) ? output : {}, locate);
    const paths: Path[] = [];
    for (const { path: items = [], message } of issues) {
      const path = items.map(({ key }) => key as string | number);
      const isKey = items.at(-1)?.origin === "key";
      const where = pathText(path, source.root);
      const at = positionOf(source.root, path, isKey ? "key" : "value");
      this.add(file, at, where === "" ? message : `${where}: ${message}`);
      const whole = items.findIndex(({ value }) => value === partOfValue);
      paths.push(whole < 0 ? path : path.slice(0, whole));
    }
    for (const path of paths) removeAt(output, path);
    this.broken.set(source, paths);
    return source;
  }

  private refuseSpecialKeys(file: string, here: Located): void {
    if (here.kind === "list") for (const each of here.items) this.refuseSpecialKeys(file, each);
    if (here.kind !== "table") return;
    for (const [key, { at, value }] of here.entries) {
      if (specialKeys.has(key)) this.add(file, at, `${quote(key)} is no setting here`);
      else this.refuseSpecialKeys(file, value);
    }
  }

  private async readIncluded(main: SourceFile): Promise<SourceFile[]> {
    const { include = [] } = main.settings;
    const seen = new Set([await this.identity(main.file)]);
    const sources: SourceFile[] = [];
    for (const [i, pattern] of include.entries()) {
      const at = positionOf(main.root, ["include", i], "value");
      let files: readonly string[] = [];
      try {
        files = await this.system.list(main.file, pattern);
      } catch (error) {
        this.add(main.file, at, `include: ${quote(pattern)}: ${reasonOf(error)}`);
      }
      for (const file of files) {
        const identity = await this.identity(file);
        if (identity === (await this.identity(main.file))) {
          this.add(main.file, at, `include: ${quote(pattern)} has this file in it`);
        }
        if (seen.has(identity)) continue;
        seen.add(identity);
        if (seen.size > configurationFilesMax) {
          this.add(main.file, at, `include: more than ${configurationFilesMax} files`);
          return sources;
        }
        const source = await this.readFile(file, includedKind.parsed);
        if (source !== undefined) sources.push(source);
      }
    }
    return sources;
  }

  private async identity(file: string): Promise<string> {
    try {
      return await this.system.identity(file);
    } catch {
      return file;
    }
  }

  /** Reads lists of networks, and finds the numbers of users and groups. */
  private async completeNames(origin: Origin, own: ServiceSettings): Promise<ServiceSettings> {
    const { source, index } = origin;
    const path = ["service", index];
    await this.readLists(source, [...path, "accept-proxy"], own["accept-proxy"]);
    const { capture } = own;
    if (capture === undefined) return own;
    for (const name of ["dst", "src", "bypass"] as const) {
      await this.readLists(source, [...path, "capture", name], capture[name]);
    }
    const { system } = this;
    const uids = this.numbers(source, [...path, "capture", "guard-uid"], capture["guard-uid"], {
      find: (name) => system.userId(name),
      what: "user of /etc/passwd",
    });
    const gids = this.numbers(source, [...path, "capture", "guard-gid"], capture["guard-gid"], {
      find: (name) => system.groupId(name),
      what: "group of /etc/group",
    });
    const guards = {
      ...(uids === undefined ? {} : { "guard-uid": uids }),
      ...(gids === undefined ? {} : { "guard-gid": gids }),
    };
    return { ...own, capture: { ...capture, ...guards } };
  }

  private numbers(
    source: SourceFile,
    path: Path,
    given: readonly (number | string)[] | undefined,
    { find, what }: { find: (name: string) => number | undefined; what: string },
  ): readonly number[] | undefined {
    return given?.flatMap((each, i) => {
      const id = typeof each === "number" ? each : find(each);
      if (id !== undefined) return [id];
      const text = `${quote(String(each))} is no ${what}: give one of its names or a number`;
      this.addAt(source, [...path, i], text);
      return [];
    });
  }

  private async readLists(source: SourceFile, path: Path, given: unknown): Promise<void> {
    if (!Array.isArray(given)) return;
    for (const [i, each] of given.entries()) {
      if (typeof each !== "object" || !("file" in each)) continue;
      const list = each as NetworkFile;
      if (list.file === "-") {
        const text = '"@-" is not accepted here: give a file';
        this.addAt(source, [...path, i], text);
        continue;
      }
      const name = this.system.resolve(source.file, list.file);
      const reading = this.lists.get(name) ?? this.readList(name);
      this.lists.set(name, reading);
      const text = await reading;
      if (text instanceof Error) {
        this.addAt(source, [...path, i], `${quote(`@${list.file}`)}: ${text.message}`);
        continue;
      }
      list.text = text;
      const parsed = parseNetworkList(list);
      if (!parsed.ok) this.addAt(source, [...path, i], parsed.error);
      list.file = name;
    }
  }

  private async readList(name: string): Promise<string | Error> {
    try {
      const text = decode(await this.system.readList(name));
      return typeof text === "string" ? text : new Error("this is not UTF-8");
    } catch (error) {
      return new Error(`cannot be read: ${reasonOf(error)}`);
    }
  }

  private tell(issue: Issue, main: SourceFile, origins: Origins): void {
    const { source, path } = placeOf(main, origins, issue.path);
    if (this.isExplained(source, path, issue)) return;
    const at = positionOf(source.root, path, "key");
    const where = pathText(path, source.root);
    const text = issueText(issue);
    this.add(source.file, at, where === "" ? text : `${where}: ${text}`);
  }

  /** Whether the issue is there because something else is wrong, of which nothing is used. */
  private isExplained(source: SourceFile, path: Path, issue: Issue): boolean {
    return causes(path, issue).some(({ cause, anywhere }) =>
      [...this.broken].some(
        ([other, paths]) =>
          (anywhere || other === source) &&
          paths.some((each) => cause.every((step, i) => each[i] === step)),
      ),
    );
  }

  private addAt(source: SourceFile, path: Path, text: string): void {
    const at = positionOf(source.root, path, "value");
    this.add(source.file, at, `${pathText(path, source.root)}: ${text}`);
  }

  private add(file: string, at: Position | undefined, text: string): void {
    this.problems.push({ file, at, text });
  }
}

/** Takes the value at a path out, with all of its list: of what is wrong nothing is used. */
function removeAt(root: unknown, path: Path): void {
  let here = root;
  for (const step of path) {
    if (Array.isArray(here)) {
      here = here[Number(step)];
      continue;
    }
    if (!isTable(here)) return;
    const inner = here[step];
    const goesOn = isTable(inner) || (Array.isArray(inner) && inner.every(isTable));
    if (!goesOn || step === path.at(-1)) {
      delete here[step];
      return;
    }
    here = inner;
  }
}

/** The text, or where it stops being UTF-8. A byte order mark is left out. */
function decode(bytes: Uint8Array): string | Position {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const [before = ""] = new TextDecoder().decode(bytes).split("\ufffd", 1);
    const lines = before.split("\n");
    return { line: lines.length, column: (lines.at(-1)?.length ?? 0) + 1 };
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
