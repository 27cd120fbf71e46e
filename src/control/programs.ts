/** Programs of this system, found where nobody else can have put another one of that name. */

import { accessSync, constants, realpathSync, statSync } from "node:fs";

/**
 * The path of a program in the folders of `path` (PATH), or undefined. Folders that are not
 * absolute are passed over, for what they are depends on the current one; so are folders, and
 * programs, that others may write to: for root all but root, for a user all but both.
 */
export function findProgram(name: string, path = process.env.PATH ?? ""): string | undefined {
  for (const folder of path.split(":")) {
    if (!folder.startsWith("/")) continue;
    const program = safely(`${folder}/${name}`);
    if (program !== undefined) return program;
  }
  return undefined;
}

/** The file behind `path`, if it is a program that only root and this user can have made. */
function safely(path: string): string | undefined {
  try {
    const program = realpathSync(path);
    accessSync(program, constants.X_OK);
    if (!statSync(program).isFile()) return undefined;
    const folders = [path, program].map((each) => each.slice(0, each.lastIndexOf("/")) || "/");
    return [program, ...folders].every(isTrusted) ? program : undefined;
  } catch {
    return undefined;
  }
}

function isTrusted(path: string): boolean {
  const { uid, mode } = statSync(path);
  const WRITABLE_BY_OTHERS = 0o022;
  return (mode & WRITABLE_BY_OTHERS) === 0 && (uid === 0 || uid === process.getuid?.());
}
