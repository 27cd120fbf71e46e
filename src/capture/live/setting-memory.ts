/**
 * The former values of changed kernel settings, in a file of /run, which a reboot empties as
 * it resets them.
 *
 * The file is named after the network namespace: its cookie (SO_NETNS_COOKIE, Linux 5.14), which is
 * no other's until the next boot; on older kernels its inode, which may be. The folder must be its
 * user's own and writable for nobody else, so that no link can be planted in it; the file is made
 * under another name and moved.
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
import {
  AF_UNIX,
  SO_NETNS_COOKIE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../../../ffi/constants.ts";
import { allocate } from "../../../ffi/memory.ts";
import { HOST_ORDER } from "../../../ffi/netlink/wire.ts";
import * as sys from "../../../ffi/sys.ts";

const Entry = v.object({
  name: v.string(),
  before: v.string(),
  after: v.string(),
  /** The index of the interface that the setting is of; 0 for one of all interfaces. */
  index: v.number(),
  /** Whether it was written; otherwise the process ended just before. */
  written: v.boolean(),
  /** The set-ups that need it, by the names of their firewall tables. */
  by: v.array(v.string()),
});
const Memory = v.array(Entry);

/** A setting that was changed. */
export type Remembered = Readonly<v.InferOutput<typeof Entry>>;

/** The folder of what is remembered: of the system's administrator. */
export const stateFolder = "/run/tproxy";

/** A setting cannot be read or written, or what is remembered is not to be trusted. */
export class SysctlError extends Error {}

/** Returns the former values of this network namespace. @throws SysctlError */
export function recall(folder: string): readonly Remembered[] {
  const path = memoryPath(folder);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    // Root's folder, and this user is not root, or so only in a namespace: nothing of its own.
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["ENOENT", "EACCES"].includes(code)) return [];
    throw new SysctlError(`${path} cannot be read: ${reason(error)}`);
  }
  try {
    checkOwner(folder, fstatSync(fd));
    return v.parse(Memory, JSON.parse(readFileSync(fd, "utf8")));
  } catch (error) {
    throw new SysctlError(`${path} is not what tproxy wrote: ${reason(error)}`);
  } finally {
    closeSync(fd);
  }
}

/** Remembers these and nothing else of this network namespace. @throws SysctlError */
export function remember(settings: readonly Remembered[], folder: string): void {
  try {
    const path = memoryPath(folder);
    if (settings.length === 0) return forget(path);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    checkOwner(folder, lstatSync(folder));
    const aside = `${path}.${process.pid}`;
    writeFileSync(aside, JSON.stringify(settings), { mode: 0o600, flag: "wx" });
    renameSync(aside, path);
  } catch (error) {
    throw new SysctlError(`${folder} cannot be written: ${reason(error)}`);
  }
}

function forget(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

function memoryPath(folder: string): string {
  return join(folder, `sysctls-${namespaceId()}.json`);
}

const cookie = allocate(8);

function namespaceId(): string {
  const fd = sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    const result = sys.getsockoptBytes(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie.address, 8);
    sys.close(fd);
    if (result >= 0) return `cookie-${cookie.view.getBigUint64(0, HOST_ORDER)}`;
  }
  return readlinkSync("/proc/thread-self/ns/net").replace(/[^0-9]/g, "");
}

/** @throws Error unless it is this user's and nobody else can write it. */
function checkOwner(path: string, { uid, mode }: { uid: number; mode: number }): void {
  if (uid !== process.geteuid?.() || (mode & 0o022) !== 0 || (mode & 0o170000) === 0o120000) {
    throw new Error(`"${path}" belongs to others or others can write it`);
  }
}

/** The text of an error. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
