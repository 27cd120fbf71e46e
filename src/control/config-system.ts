/** The sources of a configuration: files, /etc/passwd and /etc/group, the processors. */

import { readdirSync, realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { ConfigurationSystem } from "../config/file.ts";
import { configurationBytesMax, networkListBytesMax } from "../engine/limits.ts";
import { readInput } from "./read-input.ts";
import { coreCount } from "./threads.ts";
import { findGroupId, findUser } from "./users.ts";

/** The running system. */
export const configurationSystem: ConfigurationSystem = {
  read: (path) => readInput(path, configurationBytesMax),
  readList: (path) => readInput(path, networkListBytesMax),
  resolve: besideFile,
  async list(from, pattern) {
    const path = besideFile(from, pattern);
    const [folder, name] = [dirname(path), basename(path)];
    if (/[*?]/.test(dirname(pattern)))
      throw new Error('"*" and "?" may stand in the name of a file only');
    if (!/[*?]/.test(name)) return [path];
    const matches = matcher(name);
    let names: string[];
    try {
      names = readdirSync(folder);
    } catch (error) {
      throw new Error(`${folder} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
    }
    return names
      .filter((each) => matches.test(each))
      .sort()
      .map((each) => join(folder, each));
  },
  // By this thread: the others may be nobody's by now (`disarmOtherThreads`).
  identity: async (path) => realpathSync(path),
  userId(name) {
    try {
      return findUser(name)?.uid;
    } catch {
      return undefined;
    }
  },
  groupId: findGroupId,
  cores: coreCount(),
};

/** A path as a file means it: relative to its folder, or for standard input to ours. */
function besideFile(from: string, path: string): string {
  return from === "-" ? resolve(path) : join(path.startsWith("/") ? "" : dirname(from), path);
}

/** Names that a pattern fits; as in a shell, not those that begin with a dot. */
function matcher(pattern: string): RegExp {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", "[^/]*")
    .replaceAll("?", "[^/]");
  return new RegExp(`^(?!\\.)${source}$`, "s");
}
