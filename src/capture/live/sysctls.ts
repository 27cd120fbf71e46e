/** Kernel settings that a Plan needs: set, remembered, and given back. */

import { readFileSync, writeFileSync } from "node:fs";
import type { Sysctl } from "../plan/plan.ts";
import { interfaceIndex, type Kernel } from "./kernel.ts";
import {
  type Remembered,
  reason,
  recall,
  remember,
  SysctlError,
  stateFolder,
} from "./setting-memory.ts";

/** The settings that are not as they should be; those of interfaces that are not there, too. */
export function wrongSysctls(wanted: readonly Sysctl[]): readonly Sysctl[] {
  return wanted.filter(({ name, value }) => read(name) !== value);
}

/**
 * Sets them for a set-up, those of interfaces that are there; a line for each. What they were is
 * remembered first, and if one cannot be set, all is as before. The first value that was found is
 * the one to give back, however often it is set since, unless the interface is another one now.
 * @throws SysctlError
 */
export function setSysctls(
  kernel: Kernel,
  wanted: readonly Sysctl[],
  by: string,
  folder = stateFolder,
): string[] {
  const known = recall(folder);
  const indexOf = indexReader(kernel);
  const settings = wanted.flatMap(({ name, value }) => {
    const [before, index] = [read(name), indexOf(name)];
    if (before === undefined || index === undefined) return [];
    const old = known.find((each) => each.name === name && each.index === index && each.written);
    // Right as it is, and not by us.
    if (old === undefined && before === value) return [];
    const entry = old ?? { name, before, after: value, index, written: false, by: [] };
    return [{ now: before, entry: { ...entry, by: [...new Set([...entry.by, by])] } }];
  });
  const changes = settings.filter(({ now, entry }) => now !== entry.after);
  const others = known.filter(({ name }) => !settings.some(({ entry }) => entry.name === name));
  const entries = settings.map(({ entry }) => entry);
  const isNew = entries.some(
    (entry) => !known.some((each) => each.index === entry.index && each.by.includes(by)),
  );
  if (changes.length > 0 || isNew) remember([...others, ...entries], folder);
  writeAll(changes, () => remember(known, folder));
  if (entries.some(({ written }) => !written)) {
    remember([...others, ...entries.map((each) => ({ ...each, written: true }))], folder);
  }
  return changes.map(({ now, entry }) => `~ sysctl ${entry.name}: ${now} -> ${entry.after}`);
}

interface Change {
  readonly now: string;
  readonly entry: Remembered;
}

/**
 * Writes all of them or none: after a failure it restores those that were written, and calls
 * `undo`.
 */
function writeAll(changes: readonly Change[], undo: () => void): void {
  const written: Change[] = [];
  try {
    for (const change of changes) {
      write(change.entry.name, change.entry.after);
      written.push(change);
    }
  } catch (error) {
    for (const { now, entry } of written) write(entry.name, now);
    undo();
    throw error;
  }
}

/**
 * Gives back what is remembered of set-ups that are `gone`, except for settings that another one
 * needs and those that somebody has changed since. A line for each. @throws SysctlError
 */
export function restoreSysctls(
  kernel: Kernel,
  gone: (by: string) => boolean,
  folder = stateFolder,
): string[] {
  const known = recall(folder);
  if (!known.some((each) => each.by.some(gone))) return [];
  const indexOf = indexReader(kernel);
  const left = known.map((each) => ({ ...each, by: each.by.filter((name) => !gone(name)) }));
  const ours = left.filter(
    ({ name, after, index, written, by }) =>
      by.length === 0 && written && read(name) === after && indexOf(name) === index,
  );
  for (const { name, before } of ours) write(name, before);
  remember(
    left.filter(({ by }) => by.length > 0),
    folder,
  );
  return ours.map(({ name, before, after }) => `~ sysctl ${name}: ${after} -> ${before}`);
}

/** From now on another name stands for a set-up. @throws SysctlError */
export function renameInSysctls(from: string, to: string, folder = stateFolder): void {
  const known = recall(folder);
  if (!known.some(({ by }) => by.includes(from))) return;
  const renamed = known.map((each) => ({
    ...each,
    by: each.by.map((name) => (name === from ? to : name)),
  }));
  remember(renamed, folder);
}

/** The parts of a name are separated by `/`: interfaces have `.` in theirs. */
function sysctlPath(name: string): string {
  return `/proc/sys/${name}`;
}

/** Undefined where the interface is not there. @throws SysctlError for what cannot be read */
function read(name: string): string | undefined {
  try {
    return readFileSync(sysctlPath(name), "latin1").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new SysctlError(`${name} cannot be read: ${reason(error)}`);
  }
}

function write(name: string, value: string): void {
  try {
    writeFileSync(sysctlPath(name), value);
  } catch (error) {
    throw new SysctlError(`${name} cannot be set to ${value}: ${reason(error)}`);
  }
}

/** Tells the index of the interface that a setting is of; 0 for one of all interfaces. */
function indexReader(kernel: Kernel): (name: string) => number | undefined {
  return (name) => {
    const [, owner = "all"] = /\/conf\/([^/]+)\//.exec(name) ?? [];
    if (owner === "all" || owner === "default") return 0;
    try {
      return interfaceIndex(kernel, owner);
    } catch {
      return undefined;
    }
  };
}
