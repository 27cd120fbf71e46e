/** A file is written as a whole or stays as it was. */

import { chmod, chown, open, realpath, rename, rm, stat } from "node:fs/promises";

/**
 * Replaces a file's content with `text`: mode and owner stay, and a reader sees the one or
 * the other. A symbolic link stays one. Rejects with the system's error.
 */
export async function replaceFile(path: string, text: string): Promise<void> {
  const file = await realpath(path);
  const { mode, uid, gid } = await stat(file);
  const beside = `${file}.${process.pid}.new`;
  const handle = await open(beside, "wx", 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
    await handle.close();
    await chown(beside, uid, gid);
    await chmod(beside, mode & 0o7777);
    await rename(beside, file);
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(beside, { force: true });
    throw error;
  }
}
