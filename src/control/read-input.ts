/**
 * Reads files that a user names, and standard input. Each read is done by a thread of the runtime's
 * pool, so a FIFO that nobody writes to, or a terminal, keeps no signal from ending the process;
 * and it is bounded, so that what has no end (/dev/zero) is refused.
 */

import { close, constants, fstatSync, open, openSync, read } from "node:fs";
import { promisify } from "node:util";

/** Why a file could not be read: `ENOENT`, `more than 10 bytes`. */
export class InputError extends Error {}

const readBytesMax = 1024 * 1024;
const STDIN = 0;

/**
 * All of a file, or of standard input where `file` is `-`.
 * @throws InputError for what cannot be read, and for more than `bytesMax` bytes
 */
export async function readInput(file: string, bytesMax: number): Promise<Uint8Array> {
  let fd: number | undefined;
  try {
    fd = file === "-" ? STDIN : await openInput(file);
    return await readAll(fd, bytesMax);
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError((error as NodeJS.ErrnoException).code ?? String(error));
  } finally {
    if (fd !== undefined && fd !== STDIN) close(fd);
  }
}

/**
 * The runtime's threads may have become nobody's (`disarmOtherThreads`), and find no way to what
 * only our own user may read. Then this thread opens it, if that cannot make it wait.
 */
async function openInput(file: string): Promise<number> {
  try {
    return await promisify(open)(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EACCES") throw error;
    const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    if (fstatSync(fd).isFile()) return fd;
    close(fd);
    throw error;
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
