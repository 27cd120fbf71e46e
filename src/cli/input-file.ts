/**
 * Files that a user names, and standard input, read before a command begins. Each read is done by a
 * thread of the runtime's pool, so a FIFO that nobody writes to, or a terminal, keeps no signal
 * from ending the process; and it is bounded, so that what has no end (/dev/zero) is refused.
 */

import { close, open, read } from "node:fs";
import { promisify } from "node:util";
import type { NetworkFile } from "../config/networks.ts";
import { networkListBytesMax } from "../engine/limits.ts";
import { quote } from "../net/result.ts";
import { UsageError } from "./failure.ts";

/** Why a file could not be read: `ENOENT`, `more than 10 bytes`. */
export class InputError extends Error {}

const readBytesMax = 1024 * 1024;
const STDIN = 0;

/**
 * Reads every file that is named anywhere in `options`. Signals end the process meanwhile.
 * @throws UsageError for what cannot be read or has no end
 */
export async function loadFiles(options: unknown): Promise<void> {
  const files = [...filesIn(options)];
  if (files.filter(({ file }) => file === "-").length > 1) {
    throw new UsageError('standard input can be read once: give "@-" to one option only');
  }
  for (const each of files) {
    try {
      each.text = new TextDecoder().decode(await readInput(each.file, networkListBytesMax));
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      const name = quote(`@${each.file}`);
      throw new UsageError(`Cannot read ${name}: ${error.message}; give a readable file`);
    }
  }
}

/** The files in an object of options, and in the lists in it. */
function* filesIn(value: unknown): Generator<NetworkFile> {
  if (Array.isArray(value)) for (const each of value) yield* filesIn(each);
  else if (isFile(value)) yield value;
  else if (isPlain(value)) for (const each of Object.values(value)) yield* filesIn(each);
}

function isFile(value: unknown): value is NetworkFile {
  return isPlain(value) && "file" in value;
}

function isPlain(value: unknown): value is object {
  return typeof value === "object" && value !== null && value.constructor === Object;
}

/**
 * All of a file, or of standard input where `file` is `-`.
 * @throws InputError for what cannot be read, and for more than `bytesMax` bytes
 */
export async function readInput(file: string, bytesMax: number): Promise<Uint8Array> {
  let fd: number | undefined;
  try {
    fd = file === "-" ? STDIN : await promisify(open)(file, "r");
    return await readAll(fd, bytesMax);
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError((error as NodeJS.ErrnoException).code ?? String(error));
  } finally {
    if (fd !== undefined && fd !== STDIN) close(fd);
  }
}

async function readAll(fd: number, bytesMax: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  for (;;) {
    const chunk = new Uint8Array(Math.min(readBytesMax, bytesMax + 1 - total));
    const count = await new Promise<number>((resolve, reject) => {
      read(fd, chunk, 0, chunk.length, null, (error, taken) =>
        error === null ? resolve(taken) : reject(error),
      );
    });
    if (count === 0) return Buffer.concat(chunks);
    total += count;
    if (total > bytesMax) throw new InputError(`more than ${bytesMax} bytes`);
    chunks.push(chunk.subarray(0, count));
  }
}
