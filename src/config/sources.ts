/** Files that have been read, and where the services and pools of all of them come from. Pure. */

import type { Path } from "../net/issue.ts";
import type { Issue } from "./check.ts";
import { inside, type Located, positionOf } from "./located.ts";
import type { Settings } from "./settings.ts";

/** A file that has been read, as far as it could be. */
export class SourceFile {
  readonly file: string;
  readonly settings: Settings;
  private readonly locate: () => Located;
  private located: Located | undefined;

  /** `locate` finds the places of the settings: it is called once, and only if it is needed. */
  constructor(file: string, settings: Settings, locate: () => Located) {
    this.file = file;
    this.settings = settings;
    this.locate = locate;
  }

  /** The text's values with their places. */
  get root(): Located {
    this.located ??= this.locate();
    return this.located;
  }
}

/** Where a service or pool of all files together comes from. */
export interface Origin {
  readonly source: SourceFile;
  readonly index: number;
}

/** Those of all files, in the order of the merged settings. */
export type Origins = Readonly<Record<"pool" | "service", readonly Origin[]>>;

/** The file of a path of all files together, and the path in it. */
export function placeOf(
  main: SourceFile,
  origins: Origins,
  path: Path,
): { source: SourceFile; path: Path } {
  const [kind, index, ...rest] = path;
  if ((kind !== "pool" && kind !== "service") || typeof index !== "number") {
    return { source: main, path };
  }
  const origin = origins[kind][index];
  return origin === undefined
    ? { source: main, path }
    : { source: origin.source, path: [kind, origin.index, ...rest] };
}

/** Where a setting of the effective settings comes from, in words. */
export function originText(main: SourceFile, origins: Origins, path: Path): string {
  const { source, path: own } = placeOf(main, origins, path);
  const [setting = ""] = path.slice(path[0] === "pool" || path[0] === "service" ? 2 : 0);
  const candidates: [SourceFile, Path][] = [
    [source, own],
    [main, ["defaults", setting]],
  ];
  const found = candidates.find(([{ root }, each]) => inside(root, each) !== undefined);
  if (found === undefined) return "built in";
  return `${found[0].file}:${positionOf(found[0].root, found[1], "key").line}`;
}

/** The services or pools of some files, in their order. */
export function originsOf(sources: readonly SourceFile[], kind: "pool" | "service"): Origin[] {
  return sources.flatMap((source) =>
    (source.settings[kind] ?? []).map((_, index) => ({ source, index })),
  );
}

/** The settings of one. */
export function settingsAt(kind: "pool" | "service") {
  return ({ source, index }: Origin) => source.settings[kind]?.[index] ?? {};
}

interface Cause {
  readonly cause: Path;
  /** In whichever file it is. */
  readonly anywhere: boolean;
}

/** What an issue would come from, if that were wrong. */
export function causes(path: Path, { code, args }: Issue): Cause[] {
  const beside = (name: string) => ({ cause: [...path.slice(0, 2), name], anywhere: false });
  switch (code) {
    case "missing":
      return [{ cause: [...path, args.setting], anywhere: path.length === 0 }];
    case "pool-or-to":
      return [beside("pool"), beside("to")];
    case "no-such-pool":
      return [{ cause: ["pool"], anywhere: true }];
    case "header-without-proxy":
      return [beside("accept-proxy"), { cause: ["defaults", "accept-proxy"], anywhere: true }];
    case "on-exit-of-relay":
      return [{ cause: ["defaults", "path"], anywhere: true }];
    case "capture-without-routes":
      return [{ cause: ["routes", "install"], anywhere: true }];
    default:
      return [];
  }
}
