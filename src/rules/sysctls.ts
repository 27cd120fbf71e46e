/**
 * Kernel settings that a Plan needs: set, remembered, and given back.
 *
 * What they were is remembered in a file of /run, which a reboot empties as it resets them. It is
 * named after the network namespace. The folder must be its user's own and writable for nobody
 * else, so that no link can be planted in it; the file is made under another name and moved.
 */

import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { Sysctl } from "../routing/plan.ts";

/** A setting that was changed. */
interface Remembered {
  readonly name: string;
  readonly before: string;
  readonly after: string;
  /** The set-ups that need it, by the names of their firewall tables. */
  readonly by: readonly string[];
}

const Memory = v.array(
  v.object({ name: v.string(), before: v.string(), after: v.string(), by: v.array(v.string()) }),
);

/** The folder of what is remembered: of the system's administrator. */
const stateFolder = "/run/tproxy";

/** A setting cannot be read or written, or what is remembered is not to be trusted. */
export class SysctlError extends Error {}

/** The settings that are not as they should be; those of interfaces that are not there, too. */
export function wrongSysctls(wanted: readonly Sysctl[]): readonly Sysctl[] {
  return wanted.filter(({ name, value }) => readIfThere(name) !== value);
}

/**
 * Sets them for a set-up; what they were is remembered first. A line for each.
 * @throws SysctlError
 */
export function setSysctls(wanted: readonly Sysctl[], by: string, folder = stateFolder): string[] {
  const known = recall(folder);
  const changes = wrongSysctls(wanted).map(({ name, value }) => {
    return { name, before: read(name), after: value, by: [by] };
  });
  // The first value that was found is the one to give back, however often it is set since.
  const fresh = changes.filter(({ name }) => !known.some((each) => each.name === name));
  const shared = known.map((each) => {
    const isShared = wanted.some(({ name }) => name === each.name) && !each.by.includes(by);
    return isShared ? { ...each, by: [...each.by, by] } : each;
  });
  if (fresh.length > 0 || shared.some((each, i) => each !== known[i]))
    remember([...shared, ...fresh], folder);
  for (const { name, after } of changes) write(name, after);
  return changes.map(({ name, before, after }) => `~ sysctl ${name}: ${before} -> ${after}`);
}

/**
 * Gives back what is remembered of set-ups that are `gone`, except for settings that another one
 * needs and those that somebody has changed since. A line for each. @throws SysctlError
 */
export function restoreSysctls(gone: (by: string) => boolean, folder = stateFolder): string[] {
  const known = recall(folder);
  const mine = known.filter((each) => each.by.some(gone));
  if (mine.length === 0) return [];
  const left = known
    .map((each) => ({ ...each, by: each.by.filter((name) => !gone(name)) }))
    .filter((each) => each.by.length > 0);
  const released = mine.filter(({ name }) => !left.some((each) => each.name === name));
  const ours = released.filter(({ name, after }) => readIfThere(name) === after);
  for (const { name, before } of ours) write(name, before);
  if (left.length === 0) unlinkSync(memoryPath(folder));
  else remember(left, folder);
  return ours.map(({ name, before, after }) => `~ sysctl ${name}: ${after} -> ${before}`);
}

/** The parts of a name are separated by `/`: interfaces have `.` in theirs. */
function sysctlPath(name: string): string {
  return `/proc/sys/${name}`;
}

function read(name: string): string {
  try {
    return readFileSync(sysctlPath(name), "latin1").trim();
  } catch (error) {
    throw new SysctlError(`${name} cannot be read: ${reason(error)}`);
  }
}

function readIfThere(name: string): string | undefined {
  try {
    return read(name);
  } catch {
    // The interface is gone, and its settings with it.
    return undefined;
  }
}

function write(name: string, value: string): void {
  try {
    writeFileSync(sysctlPath(name), value);
  } catch (error) {
    throw new SysctlError(`${name} cannot be set to ${value}: ${reason(error)}`);
  }
}

function memoryPath(folder: string): string {
  const namespace = readlinkSync("/proc/thread-self/ns/net").replace(/[^0-9]/g, "");
  return join(folder, `sysctls-${namespace}.json`);
}

function recall(folder: string): readonly Remembered[] {
  let fd: number;
  try {
    fd = openSync(memoryPath(folder), constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    // Root's folder, and this user is not root, or so only in a namespace: nothing of its own.
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["ENOENT", "EACCES"].includes(code)) return [];
    throw new SysctlError(`${memoryPath(folder)} cannot be read: ${reason(error)}`);
  }
  try {
    checkOwner(folder, fstatSync(fd));
    return v.parse(Memory, JSON.parse(readFileSync(fd, "utf8")));
  } catch (error) {
    throw new SysctlError(`${memoryPath(folder)} is not what tproxy wrote: ${reason(error)}`);
  } finally {
    closeSync(fd);
  }
}

function remember(settings: readonly Remembered[], folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    checkOwner(folder, lstatSync(folder));
    const path = memoryPath(folder);
    const aside = `${path}.${process.pid}`;
    writeFileSync(aside, JSON.stringify(settings), { mode: 0o600, flag: "wx" });
    renameSync(aside, path);
  } catch (error) {
    throw new SysctlError(`${folder} cannot be written: ${reason(error)}`);
  }
}

/** @throws Error unless it is this user's and nobody else can write it. */
function checkOwner(path: string, { uid, mode }: { uid: number; mode: number }): void {
  if (uid !== process.geteuid?.() || (mode & 0o022) !== 0 || (mode & 0o170000) === 0o120000) {
    throw new Error(`"${path}" belongs to others or others can write it`);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
